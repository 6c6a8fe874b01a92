//! The commands for API keys, and for the sessions of an owner, beside a gateway that runs.

use serde_json::Value;

use crate::{
    administration::StoreFolder,
    callers::rest_as,
    support::{Rest, soon},
};

#[tokio::test]
async fn an_operator_makes_keys_and_exports_and_deletes_all_of_an_owner() {
    let place = StoreFolder::new();
    let keys = place.path("keys.toml");
    let keys = ["--api-keys", keys.as_str()];
    let run = async |arguments: &[&str]| place.run(&[arguments, &keys].concat()).await;
    let made = run(&["keys", "add", "web", "--kind", "service"]).await;
    assert_eq!((made.code, made.out.trim().len()), (Some(0), 51), "{}", made.told);
    let web = made.out.trim().to_owned();
    let ada = run(&["keys", "add", "ada", "--expires", "90d"]).await.out.trim().to_owned();
    for (arguments, code, problem) in [
        (&["keys", "add", "ada"][..], 1, "there is a key `ada` already"),
        (&["keys", "add", "a b"], 1, "invalid name `a b`"),
        (&["keys", "add", "x", "--expires", "soon"], 2, "soon"),
        (&["keys", "add", "x", "--kind", "admin"], 2, "admin"),
        (&["keys", "remove", "x"], 1, "there is no key `x`"),
        (&["keys"], 2, "add"),
    ] {
        let refused = run(arguments).await;
        assert_eq!(refused.code, Some(code), "{arguments:?}: {}", refused.told);
        assert!(refused.told.contains(problem), "{arguments:?}: {}", refused.told);
    }
    let listed = run(&["keys", "list"]).await.out;
    let lines: Vec<Vec<&str>> = listed.lines().map(|line| line.split('\t').collect()).collect();
    assert_eq!((&lines[0][..2], lines[0][3]), (&["web", "service"][..], "never"));
    assert_eq!((&lines[1][..2], lines[1][3].len()), (&["ada", "user"][..], 24));

    let process = place.start_with(&[&["--auth", "api-key"][..], &keys].concat()).await;
    let address = process.address();
    assert_eq!(Rest::call(&address, "POST", "/token?name=X").await.status, 401);
    let mut tokens = Vec::new();
    for (key, query) in [(&web, "&subject=bob"), (&web, "&subject=bob"), (&ada, "")] {
        let created = rest_as(&address, key, "POST", &format!("/token?name=X{query}")).await;
        tokens.push(created.json()["token"].as_str().unwrap().to_owned());
    }
    let bob = "key:web/bob";
    assert_eq!(place.list(&["--subject", bob]).await.len(), 2);
    assert_eq!(place.list(&[]).await[2]["subject"], "key:ada");
    let exported = place.print(&["sessions", "export", "--subject", bob]).await;
    let sessions = exported.lines().filter(|line| line.contains("\"subject\":\"key:web/bob\""));
    assert_eq!(sessions.count(), 2);
    let deleted = place.print(&["sessions", "delete", "--subject", bob]).await;
    assert_eq!(deleted.lines().filter(|line| line.starts_with("deleted ")).count(), 2);
    assert_eq!(place.print(&["sessions", "delete", "--subject", bob]).await, "");
    assert_eq!(place.list(&[]).await.len(), 1);
    let read = async |token: &str| {
        Rest::call(&address, "GET", &format!("/refresh_token?token={token}")).await.status
    };
    assert_eq!((read(&tokens[0]).await, read(&tokens[2]).await), (400, 200));

    run(&["keys", "remove", "ada"]).await;
    soon("the end of the key", async {
        while rest_as(&address, &ada, "GET", "/sessions").await.status != 401 {}
    })
    .await;
    process.kill().await;
}

#[tokio::test]
async fn an_export_brings_conversations_of_owners_to_another_file() {
    let place = StoreFolder::new();
    let keys = place.path("keys.toml");
    let flags = ["--api-keys", keys.as_str(), "--auth", "api-key"];
    let made = place.run(&["keys", "add", "ada", "--api-keys", &keys]).await;
    let ada = made.out.trim();
    let process = place.start_with(&flags).await;
    let created = rest_as(&process.address(), ada, "POST", "/token?name=Ada&title=Trip").await;
    let token = created.json()["token"].as_str().unwrap().to_owned();
    process.kill().await;
    let exported = place.print(&["sessions", "export"]).await;
    let other = StoreFolder::new();
    let imported = other.run_with(&["sessions", "import"], &exported).await;
    assert_eq!(imported.code, Some(0), "{}", imported.told);
    let process = other.start_with(&flags).await;
    let listed = rest_as(&process.address(), ada, "GET", "/sessions").await.json();
    let first: &Value = &listed["sessions"][0];
    assert_eq!((&first["title"], first["delete_at"].is_null()), (&"Trip".into(), true));
    let path = format!("/refresh_token?token={token}");
    assert_eq!(Rest::call(&process.address(), "GET", &path).await.status, 200);
    process.kill().await;
}

#[tokio::test]
async fn settings_of_callers_that_contradict_stop_the_start() {
    for (flags, problem) in [
        (&["--auth", "jwt"][..], "--auth jwt needs --jwt-issuer"),
        (&["--auth", "jwt", "--jwt-issuer", "x"], "--auth jwt needs --jwt-audience"),
        (
            &["--auth", "jwt", "--jwt-issuer", "x", "--jwt-audience", "y"],
            "--auth jwt needs --jwt-jwks",
        ),
        (&["--auth", "password"], "expected a comma-separated list of `open`, `api-key` and `jwt`"),
        (&["--jwt-jwks", "http://issuer.example/"], "expected https"),
        (&["--jwt-algorithms", "HS256"], "expected a comma-separated list of RS256"),
        (&["--retention", "0s"], "--retention must be more than zero"),
        (&["--retention", "soon"], "or `forever`"),
        (&["--auth", "api-key", "--api-keys", "/dev/null/x"], "cannot use /dev/null/x"),
    ] {
        let flags = [&["--addr", "127.0.0.1:0", "--store", "memory"][..], flags].concat();
        let child = crate::process::command(&flags).spawn().unwrap();
        let log = crate::process::Process::listening(child).await.err().unwrap_or_default();
        assert!(log.contains(problem), "{flags:?}: {log}");
    }
}
