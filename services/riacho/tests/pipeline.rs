//! From upload to cited hit, through the real binary on real servers.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::{fs, process::Command};

use serde_json::{Value, json};
use support::{Deployment, errors_of, json_lines, samples, text_of, workspace};

#[tokio::test]
async fn an_uploaded_document_is_found_with_its_page() {
    let deployment = Deployment::shared().await;
    let sample = &samples("pdf")[0];
    let accepted = deployment.upload("handbook.pdf", fs::read(sample).unwrap()).await;
    assert!(accepted["version"].is_u64() && accepted["links"].is_object(), "{accepted}");
    let status = deployment.ready(&accepted).await;
    assert!(status["progress"]["pages_total"].as_u64().unwrap() >= 3, "{status}");
    let id = accepted["id"].as_str().unwrap();
    let chunks = deployment.get(&format!("/api/v1/documents/{id}/chunks?limit=100")).await;
    // Words of the last chunk, so that the hit stands on a later page.
    let last = chunks["chunks"].as_array().unwrap().last().unwrap()["text"].as_str().unwrap().to_owned();
    let query = last.split_whitespace().take(12).collect::<Vec<_>>().join(" ");
    let hits = deployment.search(json!({ "query": query, "top_k": 5 })).await;
    let hit = hits
        .iter()
        .find(|hit| hit["document_id"] == id && hit["text"] == last.as_str())
        .expect("the chunk is found");
    let page = hit["pages"].to_string();
    assert!(page.contains(&status["progress"]["pages_total"].to_string()), "{hit}");
    assert!(hit["score"].as_f64().unwrap() > 0.0 && hit["chunk_id"].is_string(), "{hit}");
}

#[tokio::test]
async fn slicing_the_stored_text_by_a_chunks_offsets_gives_the_chunk() {
    let deployment = Deployment::shared().await;
    for sample in ["pdf", "docx", "md", "html", "csv", "eml", "txt"].into_iter().flat_map(samples) {
        let name = sample.file_name().unwrap().to_str().unwrap().to_owned();
        let accepted = deployment.upload(&name, fs::read(&sample).unwrap()).await;
        deployment.ready(&accepted).await;
        let id = accepted["id"].as_str().unwrap();
        let request = deployment.client().get(deployment.up.url(&format!("/api/v1/documents/{id}/text")));
        let text = request.header("accept", "text/plain").send().await.unwrap().text().await.unwrap();
        let text = text.chars().collect::<Vec<_>>();
        let chunks = deployment.get(&format!("/api/v1/documents/{id}/chunks?limit=100")).await;
        let chunks = chunks["chunks"].as_array().unwrap();
        assert!(!chunks.is_empty(), "{name}");
        for chunk in chunks {
            let offset = |key: &str| usize::try_from(chunk[key].as_u64().unwrap()).unwrap();
            let slice = text[offset("char_start")..offset("char_end")].iter().collect::<String>();
            assert_eq!(slice, chunk["text"].as_str().unwrap(), "{name}");
        }
    }
}

#[tokio::test]
async fn a_new_version_replaces_the_old_one_in_searches() {
    let deployment = Deployment::shared().await;
    let query = [("external_id", "notice-1")];
    let first = deployment.upload_with("notice.txt", "The ferry Aurora sails on Mondays.", &query).await;
    deployment.ready(&first).await;
    let second = deployment.upload_with("notice.txt", "The ferry Aurora sails on Fridays.", &query).await;
    assert_eq!((&second["id"], &second["version"]), (&first["id"], &json!(2)));
    deployment.ready(&second).await;
    let hits = deployment.search(json!({ "query": "ferry Aurora sails", "mode": "keyword" })).await;
    let texts = hits
        .iter()
        .filter(|hit| hit["document_id"] == first["id"])
        .map(|hit| &hit["text"])
        .collect::<Vec<_>>();
    assert_eq!(texts, ["The ferry Aurora sails on Fridays."]);
}

#[tokio::test]
async fn ingest_follows_every_file_to_its_end_and_knows_it_again() {
    let deployment = Deployment::shared().await;
    let folder = deployment.dir.path().join("to-ingest");
    fs::create_dir_all(folder.join("sub")).unwrap();
    fs::write(folder.join("a.md"), "# Otters\n\nOtters were seen below the bridge.\n").unwrap();
    fs::write(folder.join("sub/b.txt"), "Kingfishers nest in the north bank.\n").unwrap();
    let path = folder.to_str().unwrap();
    for (arguments, wanted) in
        [(&[][..], [2, 2, 0, 0, 0]), (&[], [2, 2, 0, 2, 0]), (&["--no-state"], [2, 2, 2, 0, 0])]
    {
        let lines = deployment.json(&[&["ingest", path], arguments].concat()).await;
        let summary = lines.last().unwrap();
        let counts = ["files", "ready", "duplicates", "unchanged", "failed"];
        assert_eq!(counts.map(|key| summary[key].as_u64().unwrap()), wanted, "{lines:?}");
    }
    fs::write(folder.join("broken.pdf"), b"%PDF-1.7\nthis is no more than a beginning").unwrap();
    let output = deployment.riacho(&["ingest", path, "--json"]).await;
    assert_eq!(output.status.code(), Some(1));
    let lines = json_lines(&output);
    let failed = lines.iter().find(|line| line["file"] == "broken.pdf").unwrap();
    assert!(failed["error"]["code"].is_string() && failed["error"]["message"].is_string(), "{failed}");
    assert_eq!(lines.last().unwrap()["reasons"].as_object().unwrap().len(), 1);
    let output = deployment.riacho(&["ingest", path]).await;
    assert!(
        text_of(&output).contains("reason") && text_of(&output).contains("failed: broken.pdf"),
        "{}",
        text_of(&output)
    );
}

#[tokio::test]
async fn search_and_status_print_text_and_json() {
    let deployment = Deployment::shared().await;
    let accepted =
        deployment.upload("lamprey.md", "# Lampreys\n\nLampreys pass the fish ladder in May.\n").await;
    deployment.ready(&accepted).await;
    let id = accepted["id"].as_str().unwrap();

    let answer = &deployment.json(&["search", "lampreys", "fish", "ladder", "-k", "2"]).await[0];
    assert_eq!(answer["hits"][0]["document_id"], id);
    let output = deployment.riacho(&["search", "lampreys fish ladder", "--mode", "keyword"]).await;
    assert!(
        text_of(&output).contains("lamprey.md") && text_of(&output).contains("score"),
        "{}",
        text_of(&output)
    );

    let status = &deployment.json(&["status", id]).await[0];
    assert_eq!((&status["id"], &status["state"]), (&json!(id), &json!("ready")));
    assert!(text_of(&deployment.riacho(&["status", id]).await).contains("ready"));
    assert_eq!(deployment.json(&["status"]).await[0]["health"]["status"], "healthy");
    let unknown = deployment.riacho(&["status", "00000000-0000-7000-8000-000000000000"]).await;
    assert_eq!(unknown.status.code(), Some(1));
    assert_eq!(errors_of(&unknown).lines().count(), 1, "{}", errors_of(&unknown));
}

#[tokio::test]
async fn keys_are_made_listed_and_revoked() {
    let deployment = Deployment::shared().await;
    let created =
        deployment.json(&["key", "create", "--name", "reader", "--scopes", "search"]).await.remove(0);
    let (id, secret) = (created["id"].as_str().unwrap(), created["secret"].as_str().unwrap());
    let output = deployment.riacho(&["search", "river", "--api-key", secret]).await;
    assert!(output.status.success(), "{}", errors_of(&output));
    let denied = deployment.riacho(&["ingest", "/etc/hostname", "--api-key", secret]).await;
    assert_eq!(denied.status.code(), Some(1), "{}", text_of(&denied));

    let listed = deployment.riacho(&["key", "list"]).await;
    assert!(text_of(&listed).contains("reader") && !text_of(&listed).contains(secret));
    deployment.json(&["key", "revoke", id]).await;
    riacho_testkit::eventually(|| async {
        deployment.riacho(&["search", "river", "--api-key", secret]).await.status.code() == Some(1)
    })
    .await;
    assert_eq!(deployment.riacho(&["key", "create", "--scopes", "everything"]).await.status.code(), Some(2));
}

#[tokio::test]
async fn a_tenant_is_made_suspended_exported_and_deleted() {
    let deployment = Deployment::shared().await;
    deployment.json(&["tenant", "create", "acme", "--name", "Acme"]).await;
    let key = deployment.json(&["key", "create", "--tenant", "acme"]).await.remove(0);
    let secret = key["secret"].as_str().unwrap();
    let file = deployment.dir.path().join("acme.txt");
    fs::write(&file, "Acme keeps its boats in the lower harbour.").unwrap();
    let lines = deployment.json(&["ingest", file.to_str().unwrap(), "--api-key", secret]).await;
    assert_eq!(lines.last().unwrap()["ready"], 1);

    let form = reqwest::multipart::Form::new()
        .text("purpose", "assistants")
        .part("file", reqwest::multipart::Part::bytes(b"Not attached.".to_vec()).file_name("loose.txt"));
    let client = riacho_testkit::process::client(secret).unwrap();
    let upload = client.post(deployment.up.url("/v1/files")).multipart(form);
    assert!(upload.send().await.unwrap().status().is_success());

    let folder = deployment.dir.path().join("export");
    let exported = deployment.json(&["tenant", "export", "acme", "--to", folder.to_str().unwrap()]).await;
    assert_eq!(exported[0], json!({ "documents": 1, "originals": 1, "texts": 1, "files": 1 }));
    let line: Value =
        serde_json::from_str(fs::read_to_string(folder.join("documents.jsonl")).unwrap().trim()).unwrap();
    let read = |key: &str| fs::read_to_string(folder.join(line[key].as_str().unwrap())).unwrap();
    assert!(read("original").contains("lower harbour") && read("text").contains("lower harbour"));
    let line: Value =
        serde_json::from_str(fs::read_to_string(folder.join("files.jsonl")).unwrap().trim()).unwrap();
    assert_eq!(fs::read_to_string(folder.join(line["file"].as_str().unwrap())).unwrap(), "Not attached.");

    let refused =
        async || deployment.riacho(&["search", "boats", "--api-key", secret]).await.status.code() == Some(1);
    assert!(!refused().await);
    deployment.json(&["tenant", "suspend", "acme"]).await;
    riacho_testkit::eventually(&refused).await;
    deployment.json(&["tenant", "resume", "acme"]).await;
    riacho_testkit::eventually(|| async { !refused().await }).await;
    let names =
        deployment.json(&["tenant", "list"]).await.iter().map(|t| t["id"].clone()).collect::<Vec<_>>();
    assert!(names.contains(&json!("acme")) && names.contains(&json!("default")), "{names:?}");
    deployment.json(&["tenant", "delete", "acme", "--yes"]).await;
    riacho_testkit::eventually(&refused).await;
}

#[tokio::test]
async fn the_janitors_tasks_run_by_hand() {
    let deployment = Deployment::shared().await;
    let tasks = deployment.json(&["janitor", "list"]).await;
    assert!(tasks.iter().any(|task| task["name"] == "release"), "{tasks:?}");
    for task in &tasks {
        let name = task["name"].as_str().unwrap();
        // It runs a command that nobody has named here, and says so.
        if name == "backup" {
            let refused = deployment.riacho(&["janitor", "run", name]).await;
            assert_eq!(refused.status.code(), Some(1), "{}", errors_of(&refused));
            assert!(errors_of(&refused).contains("janitor.backup.command"), "{}", errors_of(&refused));
            continue;
        }
        deployment.json(&["janitor", "run", name]).await;
    }
    let unknown = deployment.riacho(&["janitor", "run", "sweep"]).await;
    assert_eq!(unknown.status.code(), Some(2), "{}", errors_of(&unknown));
}

#[tokio::test]
async fn an_event_of_a_python_producer_becomes_searchable() {
    let deployment = Deployment::shared().await;
    let running: Value =
        serde_json::from_str(&fs::read_to_string(deployment.data_dir().join("running.json")).unwrap())
            .unwrap();
    let setting = |key: &str| {
        let all = running["settings"].as_array().unwrap();
        all.iter().find(|pair| pair[0] == key).unwrap()[1].as_str().unwrap().to_owned()
    };
    let file = deployment.dir.path().join("produced.md");
    fs::write(&file, "# Sluice\n\nThe sluice keeper Benedita opens the gate at dawn.\n").unwrap();
    let root = workspace();
    let output = Command::new(root.join(".riacho/venv/bin/python"))
        .arg(root.join("docs/examples/producer/publish.py"))
        .args(["--redis", &setting("redis.url").replace("redis+unix://", "unix://"), "--tenant", "default"])
        .arg(&file)
        .env("PROTOC", root.join(".riacho/tools/bin/protoc"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}{}", text_of(&output), errors_of(&output));
    let answer: Value = serde_json::from_str(text_of(&output).trim()).unwrap();
    let id = answer["document_id"]
        .as_str()
        .or_else(|| answer["document"].as_str())
        .unwrap_or_else(|| panic!("{answer}"));
    assert_eq!(deployment.ended(id).await["state"], "ready");
    let hits = deployment.search(json!({ "query": "who opens the sluice gate", "top_k": 3 })).await;
    assert!(hits.iter().any(|hit| hit["document_id"] == id), "{hits:?}");
}

/// The README's examples are run as they stand; only the first two lines, which say where the
/// deployment is, are this test's own.
#[tokio::test]
async fn the_examples_of_the_readme_work() {
    let deployment = Deployment::shared().await;
    let readme = fs::read_to_string(workspace().join("README.md")).unwrap();
    let blocks =
        readme.split("```sh\n").skip(1).filter_map(|rest| rest.split_once("```").map(|(block, _)| block));
    let script = blocks.filter(|block| block.contains("curl")).collect::<Vec<_>>().join("\n");
    assert!(script.matches("curl").count() >= 5, "{script}");
    let theirs = |line: &&str| !line.starts_with("URL=") && !line.starts_with("KEY=");
    let script = script.lines().filter(theirs).collect::<Vec<_>>().join("\n");
    let output = Command::new("bash")
        .args(["-euo", "pipefail", "-c", &script])
        .env("URL", deployment.up.url(""))
        .env("KEY", deployment.up.api_key().unwrap())
        .current_dir(workspace())
        .output()
        .unwrap();
    let printed = text_of(&output);
    assert!(output.status.success(), "{printed}\n{}", errors_of(&output));
    assert!(printed.contains("\"hits\"") && printed.contains("\"pages\""), "{printed}");
    assert!(!printed.contains("\"status\":4"), "a problem was answered: {printed}");
}
