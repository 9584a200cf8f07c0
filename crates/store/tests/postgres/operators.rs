//! Pauses of stages, and the log of who did what.

use chrono::{DateTime, Utc};
use riacho_domain::{StageName, State};
use riacho_store::{ActOutcome, Actor, KeyScope, ListActs, NewAct, NewKey};
use serde_json::json;

use crate::database::{Database, database, upload};

const STAGE: StageName = StageName::Embed;

fn deadline(db: &Database, document: riacho_domain::DocumentId) -> DateTime<Utc> {
    let seconds = db.value(&format!(
        "SELECT extract(epoch FROM deadline)::bigint FROM document_versions WHERE document_id = '{document}'"
    ));
    DateTime::from_timestamp(seconds.parse().unwrap(), 0).unwrap()
}

#[tokio::test]
async fn a_stage_is_paused_once_and_says_since_when_by_whom_and_why() {
    let db = database().await;
    assert_eq!(db.store.paused_stages().await.unwrap(), []);
    let first = db.store.pause_stage(STAGE, "key:1", "the provider is down").await.unwrap();
    let again = db.janitor.pause_stage(STAGE, "cli:me", "me too").await.unwrap();
    assert_eq!((first.by.as_str(), &again), ("key:1", &first));
    db.store.pause_stage(StageName::Extract, "key:1", "").await.unwrap();
    let paused = db.store.paused_stages().await.unwrap();
    assert_eq!(paused.iter().map(|pause| pause.stage).collect::<Vec<_>>(), [StageName::Extract, STAGE]);
    assert_eq!(db.store.resume_stage(STAGE, "key:2").await.unwrap(), Some(first));
    assert_eq!(db.store.resume_stage(STAGE, "key:2").await.unwrap(), None);
    assert!(db.store.pause_stage(STAGE, "key:1", &"x".repeat(501)).await.is_err());
    assert_eq!(db.value("SELECT count(*) FROM stage_pauses"), "2");
}

#[tokio::test]
async fn nothing_fails_for_its_deadline_while_a_stage_is_paused_and_the_time_is_given_back_once() {
    let db = database().await;
    let before = db.store.accept(&upload(&db.acme, "before")).await.unwrap().document;
    db.store.pause_stage(STAGE, "key:1", "").await.unwrap();
    let during = db.store.accept(&upload(&db.acme, "during")).await.unwrap().document;
    let again = db.store.accept(&upload(&db.acme, "again")).await.unwrap().document;
    // It was paused for two hours; one was released before that, one an hour ago, and one was lost in its middle and released again.
    let _ = db.raw.run(&format!(
        "UPDATE stage_pauses SET paused_at = now() - interval '2 hours';
         UPDATE document_versions SET deadline = now() - interval '1 minute', released_at = now() - interval '3 hours'
         WHERE document_id = '{before}';
         UPDATE document_versions SET deadline = now() + interval '1 hour', released_at = now() - interval '1 hour'
         WHERE document_id = '{during}';
         UPDATE document_versions SET deadline = now() + interval '1 hour', released_at = now() - interval '1 hour', losses = 1
         WHERE document_id = '{again}'"
    ));
    assert_eq!(db.janitor.fail_overdue(10).await.unwrap().len(), 0, "it is paused");
    assert_eq!(db.janitor.due_figures().await.unwrap().overdue, 0);
    assert_eq!(db.janitor.settle_pauses().await.unwrap(), 0, "it is paused still");
    db.store.resume_stage(STAGE, "key:1").await.unwrap();
    assert_eq!(db.janitor.fail_overdue(10).await.unwrap().len(), 0, "the pause is not settled");
    let (was_before, was_during) = (deadline(&db, before), deadline(&db, during));
    let was_again = deadline(&db, again);
    assert_eq!(db.janitor.settle_pauses().await.unwrap(), 3);
    assert_eq!(db.janitor.settle_pauses().await.unwrap(), 0, "once");
    let given = |now: DateTime<Utc>, was: DateTime<Utc>| (now - was).num_seconds();
    assert!((7_200..7_260).contains(&given(deadline(&db, before), was_before)));
    assert!((3_600..3_660).contains(&given(deadline(&db, during), was_during)));
    assert!(
        (7_200..7_260).contains(&given(deadline(&db, again), was_again)),
        "its deadline is of its first release"
    );
    assert_eq!(db.janitor.fail_overdue(10).await.unwrap().len(), 0, "its deadline is in two hours now");
    let _ = db.raw.run("UPDATE document_versions SET deadline = now() - interval '1 second'");
    assert_eq!(db.janitor.fail_overdue(10).await.unwrap().len(), 3);
    assert_eq!(db.state(before).await, State::Failed);
    // The services pause and resume, and no more.
    db.store.pause_stage(STAGE, "key:1", "").await.unwrap();
    db.store.resume_stage(STAGE, "key:1").await.unwrap();
    assert!(db.store.settle_pauses().await.is_err());
}

fn acts(page: &riacho_store::Page<riacho_store::Act>) -> Vec<(&str, &str, &str)> {
    page.items.iter().map(|act| (act.actor.as_str(), act.action.as_str(), act.target.as_str())).collect()
}

#[tokio::test]
async fn what_somebody_does_is_noted_with_it_and_what_services_do_by_themselves_is_not() {
    let db = database().await;
    let document = db.store.accept(&upload(&db.acme, "text")).await.unwrap().document;
    let unnoted = db.store.accept(&upload(&db.acme, "other text")).await.unwrap().document;
    db.store.delete_document(&db.acme, unnoted).await.unwrap();
    let as_key = db.store.acting_as(Actor::key("0123456789abcdef", &db.acme));
    as_key.delete_document(&db.acme, document).await.unwrap();
    assert!(!as_key.delete_document(&db.acme, document).await.unwrap());
    let new = NewKey {
        tenant: db.acme.clone(),
        name: "ci".into(),
        scopes: vec![KeyScope::Search],
        expires_at: None,
    };
    let key = as_key.create_key(&new).await.unwrap();
    as_key.revoke_key(&db.acme, &key.key.id).await.unwrap();
    as_key.pause_stage(STAGE, "key:0123456789abcdef", "a reason").await.unwrap();
    as_key.resume_stage(STAGE, "key:0123456789abcdef").await.unwrap();
    let page = db.store.acts(Some(&db.acme), &ListActs { limit: 10, ..ListActs::default() }).await.unwrap();
    let (who, document) = ("key:0123456789abcdef", document.to_string());
    assert_eq!(
        acts(&page),
        [
            (who, "stage.resume", "embed"),
            (who, "stage.pause", "embed"),
            (who, "key.revoke", key.key.id.as_str()),
            (who, "key.create", key.key.id.as_str()),
            (who, "document.delete", document.as_str()),
        ]
    );
    assert_eq!(page.items[3].detail, json!({"name": "ci", "scopes": ["search"]}));
    assert_eq!(page.items[1].detail, json!({"reason": "a reason"}));
    let secret = key.secret.expose().rsplit('_').next().unwrap();
    assert!(!format!("{page:?}").contains(secret));
    assert!(
        db.store
            .acts(Some(&db.other), &ListActs { limit: 10, ..ListActs::default() })
            .await
            .unwrap()
            .items
            .is_empty()
    );
}

#[tokio::test]
async fn acts_on_tenants_say_what_changed() {
    let db = database().await;
    let as_me = db.janitor.acting_as(Actor::command_line("me"));
    let tenant = "new".parse().unwrap();
    as_me.create_tenant(&tenant, "New").await.unwrap();
    as_me.set_tenant_weight(&tenant, 7).await.unwrap();
    as_me.set_tenant_weight(&tenant, 7).await.unwrap();
    let own = riacho_store::OwnLimits { max_bytes: Some(10), ..Default::default() };
    as_me.set_tenant_limits(&tenant, &own).await.unwrap();
    as_me.suspend_tenant(&tenant).await.unwrap();
    as_me.resume_tenant(&tenant).await.unwrap();
    as_me.delete_tenant(&tenant).await.unwrap();
    let asked = ListActs { action: Some("tenant.".into()), limit: 100, ..ListActs::default() };
    let page = db.janitor.acts(Some(&tenant), &asked).await.unwrap();
    let actions: Vec<_> = page.items.iter().rev().map(|act| act.action.as_str()).collect();
    assert_eq!(
        actions,
        [
            "tenant.create",
            "tenant.weight",
            "tenant.limits",
            "tenant.suspend",
            "tenant.resume",
            "tenant.delete"
        ]
    );
    assert_eq!(page.items[4].detail, json!({"weight": 7}));
    assert_eq!(page.items[3].detail["limits"]["max_bytes"], 10);
    // They outlive the tenant.
    assert_eq!(db.janitor.remove_deleted_tenants().await.unwrap(), std::slice::from_ref(&tenant));
    assert_eq!(db.janitor.acts(Some(&tenant), &asked).await.unwrap().items.len(), 6);
}

#[tokio::test]
async fn acts_are_listed_in_pages_by_action_actor_and_target() {
    let db = database().await;
    let as_key = db.store.acting_as(Actor::key("k", &db.acme));
    let note = async |action: &str, target: &str, outcome| {
        let detail = json!({});
        as_key.note_act(&NewAct { tenant: None, action, target, outcome, detail: &detail }).await.unwrap();
    };
    for n in 0..5 {
        note("dead_letters.replay", &n.to_string(), ActOutcome::Ok).await;
    }
    note("key.create", "", ActOutcome::Refused).await;
    let mut asked = ListActs { action: Some("dead_letters.".into()), limit: 2, ..ListActs::default() };
    let mut seen = Vec::new();
    loop {
        let page = db.store.acts(Some(&db.acme), &asked).await.unwrap();
        seen.extend(page.items.iter().map(|act| act.target.clone()));
        asked.cursor = page.next_cursor;
        if asked.cursor.is_none() {
            break;
        }
    }
    assert_eq!(seen, ["4", "3", "2", "1", "0"]);
    let of = async |asked: ListActs| {
        db.store.acts(Some(&db.acme), &ListActs { limit: 10, ..asked }).await.unwrap().items
    };
    let refused = of(ListActs { action: Some("key.create".into()), ..ListActs::default() }).await;
    assert_eq!(refused.iter().map(|act| act.outcome).collect::<Vec<_>>(), [ActOutcome::Refused]);
    assert_eq!(of(ListActs { target: Some("3".into()), ..ListActs::default() }).await.len(), 1);
    assert!(of(ListActs { actor: Some("key:other".into()), ..ListActs::default() }).await.is_empty());
    assert!(of(ListActs { action: Some("key".into()), ..ListActs::default() }).await.is_empty(), "no prefix");
    // Nobody takes anything back.
    for sql in ["DELETE FROM audit", "UPDATE audit SET actor = 'key:other'"] {
        let script = format!("SET ROLE riacho_service; SET riacho.tenant = 'acme'; {sql}");
        let run = std::panic::AssertUnwindSafe(|| db.raw.run(&script));
        assert!(std::panic::catch_unwind(run).is_err(), "{sql}");
    }
}
