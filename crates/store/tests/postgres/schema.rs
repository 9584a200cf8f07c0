//! The schema: its migrations, its statements, and its table of legal transitions.

use riacho_domain::State;
use riacho_local::testing;
use riacho_store::{Config, Error, Role, Store, ensure_space, migrate};

use crate::database::{database, upload};

#[tokio::test]
async fn every_statement_prepares_and_names_its_function() {
    let db = database().await;
    for store in [&db.store, &db.janitor] {
        let broken = store.broken_statements(db.space).await.unwrap();
        assert!(broken.is_empty(), "{:?}: {broken:#?}", store.role());
    }
}

#[tokio::test]
async fn no_statement_for_one_document_walks_all_of_them_whatever_the_planner_knows() {
    let db = database().await;
    let walking = async |when: &str| {
        let mut found = Vec::new();
        for role in [Role::Service, Role::Stage] {
            // New connections, so new plans.
            let store = Store::connect(&db.config, role).await.unwrap();
            found.extend(store.walking_statements(db.space).await.unwrap());
        }
        assert!(found.is_empty(), "{when}: {found:#?}");
    };
    walking("tables are empty").await;
    for tenant in [&db.acme, &db.other] {
        for n in 0..300 {
            let accepted = db.store.accept(&upload(tenant, &format!("text {n}"))).await.unwrap();
            if n % 3 == 0 {
                db.finish(&accepted, "en", &["x"]).await;
            }
        }
    }
    walking("nothing is analysed").await;
    let _ = db.raw.run("ANALYZE");
    walking("all is analysed").await;
}

#[tokio::test]
async fn the_database_allows_the_transitions_of_the_domain_and_no_others() {
    let db = database().await;
    let rows = db.raw.run("SELECT from_state, to_state FROM state_transitions");
    let in_sql = |from: State, to: State| {
        rows.contains(&vec![Some(from.as_str().to_owned()), Some(to.as_str().to_owned())])
    };
    for from in State::ALL {
        for to in State::ALL.into_iter().filter(|to| *to != from) {
            assert_eq!(in_sql(from, to), from.may_become(to), "{from} to {to}");
        }
    }
}

#[tokio::test]
async fn migrating_twice_does_nothing_and_a_changed_migration_is_refused() {
    let database = testing::postgres().create_database();
    let config = Config::for_url(&database.owner_url());
    let first = migrate::migrate(&config).await.unwrap();
    assert_eq!(first.applied.len(), usize::try_from(first.at).unwrap());
    assert!(migrate::migrate(&config).await.unwrap().applied.is_empty());
    let store = Store::connect(&config, Role::Service).await.unwrap();
    store.check_version().await.unwrap();
    let _ = database.run("UPDATE schema_history SET checksum = '1' WHERE version = 1");
    assert!(matches!(migrate::migrate(&config).await, Err(Error::SchemaVersion(_))));
    assert!(matches!(store.check_version().await, Err(Error::SchemaVersion(_))));
}

#[tokio::test]
async fn a_service_refuses_a_schema_that_is_missing_older_or_newer() {
    let db = database().await;
    db.store.check_version().await.unwrap();
    let _ = db.raw.run(
        "INSERT INTO schema_history SELECT version + 1000, name, applied_on, checksum FROM schema_history",
    );
    let newer = db.store.check_version().await.unwrap_err().to_string();
    assert!(newer.contains("newer build"), "{newer}");
    let _ = db.raw.run("DELETE FROM schema_history");
    let older = db.store.check_version().await.unwrap_err().to_string();
    assert!(older.contains("riacho migrate"), "{older}");
    let _ = db.raw.run("DROP TABLE schema_history");
    let missing = db.store.check_version().await.unwrap_err().to_string();
    assert!(missing.contains("riacho migrate"), "{missing}");
}

#[tokio::test]
async fn several_processes_may_migrate_at_once() {
    let database = testing::postgres().create_database();
    let config = Config::for_url(&database.owner_url());
    let (a, b) = tokio::join!(migrate::migrate(&config), migrate::migrate(&config));
    let applied = a.unwrap().applied.len() + b.unwrap().applied.len();
    assert_eq!(applied, usize::try_from(migrate::migrate(&config).await.unwrap().at).unwrap());
}

#[tokio::test]
async fn the_first_space_is_live_and_the_next_one_is_built_beside_it() {
    let db = database().await;
    let again = ensure_space(&db.config, "test-model", 8).await.unwrap();
    assert_eq!(again.id, db.space);
    let next = ensure_space(&db.config, "test-model", 16).await.unwrap();
    assert_ne!(next.id, db.space);
    assert_eq!(db.store.live_space().await.unwrap().unwrap().id, db.space);
    assert_eq!(db.store.spaces().await.unwrap().len(), 2);
    assert!(matches!(ensure_space(&db.config, "huge", 5_000).await, Err(Error::Invalid(_))));
}

#[tokio::test]
async fn a_server_that_is_away_is_worth_another_try_and_a_wrong_login_is_not() {
    let away = Config::for_url("postgres://riacho@127.0.0.1:1/riacho");
    assert!(Store::connect(&away, Role::Service).await.unwrap_err().is_retryable());
    let db = database().await;
    let wrong = db.raw.owner_url().replace(db.raw.name(), "no_such_database");
    let error = Store::connect(&Config::for_url(&wrong), Role::Service).await.unwrap_err();
    assert!(matches!(error, Error::Setup(_)) && !error.is_retryable(), "{error:?}");
}
