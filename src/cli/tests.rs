use std::{collections::BTreeMap, fs};

use super::{env_file::EnvFile, *};
use crate::transport::Origins;

fn parse(flags: &[&str]) -> Result<Command, String> {
    parse_with(flags, &[])
}

fn parse_with(flags: &[&str], variables: &[(&str, &str)]) -> Result<Command, String> {
    let arguments = [&["duologue"], flags].concat().into_iter().map(Into::into).collect();
    let variables: BTreeMap<_, _> = variables.iter().copied().collect();
    let variable = |name: &str| variables.get(name).map(Into::into);
    command_of(arguments, &EnvFile::default(), variable).map_err(|refusal| match refusal {
        CommandError::Setting(line) => line,
        CommandError::Flag(text) | CommandError::Usage(text) => one_line(&text),
    })
}

fn checked(flags: &[&str], variables: &[(&str, &str)]) -> String {
    match parse_with(&[flags, &["--check-config"]].concat(), variables) {
        Ok(Command::Print(shown)) => shown,
        other => panic!("{flags:?} gave {other:?}"),
    }
}

#[test]
fn names_variables_and_keys_have_one_form_and_are_unique() {
    let mut names: Vec<_> = settings::all().map(|setting| setting.name).collect();
    let count = names.len();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), count);
    for setting in settings::all() {
        let derived = setting.name.to_uppercase().replace('-', "_");
        let derived =
            if setting.name == "app-env" { derived } else { format!("DUOLOGUE_{derived}") };
        assert_eq!(setting.variable, derived);
        assert!(setting.summary.len() <= 80 && !setting.summary.ends_with('.'), "{derived}");
        assert!(setting.details.is_empty() || setting.details.ends_with('.'), "{derived}");
    }
}

#[test]
fn the_short_help_fits_on_one_screen() {
    let Ok(Command::Print(help)) = parse(&["-h"]) else { panic!() };
    assert!(help.lines().count() <= 24, "{} lines:\n{help}", help.lines().count());
    assert!(help.lines().all(|line| line.len() <= 90), "{help}");
    let Ok(Command::Print(help)) = parse(&["--help"]) else { panic!() };
    for setting in settings::all() {
        assert!(help.contains(&format!("--{} ", setting.name)), "{}", setting.name);
        assert!(help.contains(&format!("[env: {}]", setting.variable)), "{}", setting.variable);
    }
}

#[test]
fn a_flag_takes_precedence_over_a_variable_and_this_over_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("duologue.toml");
    fs::write(&path, "session_ttl = \"3h\"\nheartbeat = \"7s\"\nmax_sessions = 9\nallowed_origins = [\"https://a.example\", \"null\"]\n[openai_body]\ntop_p = 0.5\n").unwrap();
    let path = path.to_str().unwrap();
    let shown = checked(
        &["--session-ttl", "1h", "--config", path],
        &[("DUOLOGUE_SESSION_TTL", "2h"), ("DUOLOGUE_HEARTBEAT", "6s"), ("DUOLOGUE_DOCS", " ")],
    );
    for line in [
        "DUOLOGUE_SESSION_TTL=1h",
        "DUOLOGUE_HEARTBEAT=6s",
        "DUOLOGUE_MAX_SESSIONS=9",
        "DUOLOGUE_DOCS=true",
        "DUOLOGUE_ALLOWED_ORIGINS=https://a.example,null",
        "DUOLOGUE_OPENAI_BODY=\"{\\\"top_p\\\":0.5}\"",
    ] {
        assert!(shown.lines().any(|shown| shown == line), "{line}: {shown}");
    }
    let by_variable = checked(&[], &[("DUOLOGUE_CONFIG", path)]);
    assert!(by_variable.contains("DUOLOGUE_SESSION_TTL=3h\n"), "{by_variable}");
}

#[test]
fn a_wrong_value_is_reported_with_its_place() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("duologue.toml");
    fs::write(&path, "\nsession_ttl = \"soon\"\n").unwrap();
    let path = path.to_str().unwrap();
    for (flags, variables, told) in [
        (
            &["--session-ttl", "soon"][..],
            &[][..],
            "--session-ttl: `soon`: expected a duration".into(),
        ),
        (&[], &[("DUOLOGUE_SESSION_TTL", "soon")], "DUOLOGUE_SESSION_TTL: `soon`: expected".into()),
        (&["--config", path], &[], format!("{path}:2: session_ttl: `soon`: expected a duration")),
        (&["--docs", "yes"], &[], "--docs: `yes`: expected `true` or `false`".into()),
        (&["--max-sessions", "-1"], &[], "unexpected argument '-1' found".into()),
        (&["--max-sessions=-1"], &[], "--max-sessions: `-1`: expected a whole number".into()),
    ] {
        let line = parse_with(flags, variables).unwrap_err();
        assert!(line.starts_with(&told), "{line}");
    }
}

#[test]
fn upstreams_come_from_one_place() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("duologue.toml");
    fs::write(&path, "[[upstream]]\nname = \"a\"\nbase_url = \"http://h\"\n").unwrap();
    let file = ["--responder", "openai", "--config", path.to_str().unwrap()];
    let Ok(Command::Serve(config)) = parse(&file) else { panic!() };
    assert!(format!("{config:?}").contains("http://h/v1/chat/completions"));
    let both = parse(&[&file[..], &["--openai-base-url", "http://i"]].concat());
    assert!(both.unwrap_err().contains("contradict"));
}

#[test]
fn the_effective_configuration_lists_every_setting_and_is_an_env_file() -> Result<(), String> {
    let Command::Print(shown) = parse(&["--check-config", "--addr", "127.0.0.1:0"])? else {
        return Err("it serves".into());
    };
    assert!(shown.contains("DUOLOGUE_ADDR=127.0.0.1:0\n"), "{shown}");
    for setting in settings::all() {
        let variable = setting.variable;
        assert!(shown.contains(&format!("{variable}=")), "{variable} is missing");
    }
    Ok(())
}

#[test]
fn wrong_values_and_contradictions_are_reported_in_one_line() {
    for flags in [
        ["--session-ttl", "soon"],
        ["--session-ttl", "48h"],
        ["--session-ttl", "0s"],
        ["--max-message-size", "0"],
        ["--max-message-size", "8MiB"],
        ["--max-message-size", "lots"],
        ["--max-session-messages", "1"],
        ["--store", "etcd://x"],
        ["--responder", "parrot"],
        ["--responder", "grpc"],
        ["--addr", "3500"],
        ["--allowed-origins", "example.com"],
        ["--app-env", "staging"],
        ["--log", "duologue=loud"],
        ["--heartbeat", "0s"],
        ["--file-types", "images"],
        ["--turn-options", "speed"],
        ["--max-session-tokens", "0"],
    ] {
        match parse(&flags) {
            Ok(command) => panic!("{flags:?} gave {command:?}"),
            Err(line) => assert!(!line.contains('\n') && line.len() > 10, "{flags:?}: {line}"),
        }
    }
}

#[test]
fn limits_that_contradict_each_other_are_named() {
    for (flags, told) in [
        (["--max-text-size", "3MiB"], "--max-text-size must not be larger than --max-message-size"),
        (["--max-inline-file-size", "3MiB"], "than --max-message-size"),
        (["--max-reply-text-size", "3MiB"], "than --max-reply-size"),
        (["--max-reply-size", "512KiB"], "--max-reply-text-size must not be larger"),
        (["--max-reply-size", "4MiB"], "--max-backlog-size must hold"),
        (["--max-backlog-size", "4MiB"], "--max-backlog-size must hold"),
    ] {
        let Err(line) = parse(&flags) else { panic!("{flags:?}") };
        assert!(line.contains(told) && !line.contains('\n'), "{flags:?}: {line}");
    }
}

#[test]
fn lists_of_types_and_options_are_read_from_every_place() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("duologue.toml");
    fs::write(&path, "file_types = [\"image/png\", \"text/*\"]\nturn_options = \"none\"\n")
        .unwrap();
    let shown = checked(&["--config", path.to_str().unwrap()], &[("DUOLOGUE_FILE_TYPES", " ")]);
    assert!(shown.contains("\nDUOLOGUE_FILE_TYPES=image/png,text/*\n"), "{shown}");
    assert!(shown.contains("\nDUOLOGUE_TURN_OPTIONS=none\n"), "{shown}");
    let variables =
        [("DUOLOGUE_FILE_TYPES", "none"), ("DUOLOGUE_TURN_OPTIONS", "model, max-output-tokens")];
    let shown = checked(&[], &variables);
    assert!(shown.contains("\nDUOLOGUE_FILE_TYPES=none\n"), "{shown}");
    assert!(shown.contains("\nDUOLOGUE_TURN_OPTIONS=model,max_output_tokens\n"), "{shown}");
}

#[test]
fn a_store_that_is_refused_keeps_its_password() {
    let refused = parse(&["--store", "mysql://:hunter2@host"]);
    assert!(refused.is_err_and(|line| line.contains("--store") && !line.contains("hunter2")));
    let Ok(Command::Serve(config)) = parse(&["--store", "redis://:hunter2@host"]) else { panic!() };
    assert_eq!(config.serve.store.to_string(), "redis://[redacted]@host");
    assert!(!format!("{:?}", config.serve.store).contains("hunter2"));
}

#[test]
fn production_turns_off_what_helps_in_development() {
    let Ok(Command::Serve(config)) = parse(&["--app-env", "production"]) else { panic!() };
    let transport = &config.serve.transport;
    assert!(!transport.docs && !transport.reflection && config.telemetry.json);
    assert_eq!(transport.origins, Origins::default());
    let flags = ["--docs", "true", "--app-env", "production", "--reflection", "true"];
    let Ok(Command::Serve(config)) = parse(&flags) else { panic!() };
    assert!(config.serve.transport.docs && config.serve.transport.reflection);
}

const UPSTREAM: [&str; 4] = ["--responder", "openai", "--openai-base-url", "http://localhost:8080"];

#[test]
fn one_upstream_fits_into_flags() {
    let more = ["--openai-api-key", "sk-canary-123", "--openai-headers", r#"{"X-Title":"canary"}"#];
    let flags = [&UPSTREAM[..], &more, &["--openai-body", r#"{"top_p":0.5}"#]].concat();
    let command = parse(&flags).unwrap();
    let shown = format!("{command:?}");
    assert!(!shown.contains("canary"), "{shown}");
    assert!(shown.contains("/v1/chat/completions") && shown.contains("top_p"), "{shown}");
    let checked = [&flags[..], &["--check-config"]].concat();
    let Command::Print(shown) = parse(&checked).unwrap() else { panic!("it serves") };
    assert!(!shown.contains("canary"), "{shown}");
    assert!(shown.contains("\n# DUOLOGUE_OPENAI_API_KEY=(hidden)\n"), "{shown}");
    assert!(shown.contains("\nDUOLOGUE_OPENAI_BODY=\"{\\\"top_p\\\":0.5}\"\n"), "{shown}");
    assert!(shown.contains("\nDUOLOGUE_OPENAI_BASE_URL=http://localhost:8080\n"), "{shown}");
}

#[test]
fn wrong_upstreams_are_reported_in_one_line() {
    let with = |more: &[&'static str]| [&UPSTREAM[..], more].concat();
    for (flags, told) in [
        (vec!["--responder", "openai"], "--openai-base-url is missing"),
        (vec!["--responder", "openai", "--openai-base-url", "nowhere"], "--openai-base-url: "),
        (vec!["--check-config", "--openai-base-url", "http://ada:canary@h"], "--openai-base-url: "),
        (vec!["--responder", "openai", "--config", "/no/such/file.toml"], "/no/such/file.toml: "),
        (with(&["--openai-headers", "canary"]), "--openai-headers: "),
        (with(&["--openai-headers", r#"{"a b":"canary"}"#]), "--openai-headers: "),
        (with(&["--openai-api-key", "can\nary"]), "API key"),
        (with(&["--openai-body", "[]"]), "--openai-body: "),
        (with(&["--openai-body", r#"{"stream":false}"#]), "stream"),
        (with(&["--openai-chunk-timeout", "0s"]), "chunk_timeout"),
        (with(&["--openai-ca-cert", "ca.pem"]), "ca_cert needs"),
        (
            vec![
                "--check-config",
                "--responder",
                "openai",
                "--openai-base-url",
                "https://h",
                "--openai-ca-cert",
                "/no/such/file",
            ],
            "ca_cert /no/such/file: No such",
        ),
        (with(&["--openai-body", "\"canary\""]), "--openai-body: expected a JSON object"),
        (vec!["--addr", "127.0.0.1:1", "--ops-addr", "127.0.0.1:1"], "must differ"),
        (with(&["--openai-concurrency", "0"]), "concurrency"),
        (with(&["--openai-max-tokens", "8192"]), "max_tokens"),
    ] {
        let Err(line) = parse(&flags) else { panic!("{flags:?}") };
        assert!(line.contains(told) && !line.contains('\n'), "{flags:?}: {line}");
        assert!(!line.contains("canary"), "{line}");
    }
}

#[test]
fn a_model_that_is_not_used_is_reported() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("duologue.toml");
    fs::write(&path, "[[upstream]]\nname = \"a\"\nbase_url = \"http://h\"\n").unwrap();
    let path = path.to_str().unwrap();
    for (flags, warning) in [
        (&UPSTREAM[..], None),
        (&UPSTREAM[2..], Some("--openai-base-url has no effect with --responder simulated")),
        (
            &["--config", path],
            Some("[[upstream]] of --config has no effect with --responder simulated"),
        ),
        (
            &["--bot-endpoint", "http://localhost:1"],
            Some("--bot-endpoint has no effect with --responder simulated"),
        ),
    ] {
        let Ok(Command::Serve(config)) = parse(flags) else { panic!("{flags:?}") };
        assert_eq!(config.warnings.first().map(String::as_str), warning);
    }
}

#[test]
fn flags_of_the_upstream_may_stand_behind_the_command() {
    let url = ["--openai-base-url", "http://localhost:8080"];
    for flags in
        [[&["check-upstream"], &url[..]].concat(), [&url[..], &["check-upstream"]].concat()]
    {
        assert!(matches!(parse(&flags), Ok(Command::CheckUpstream(_))), "{flags:?}");
    }
    assert!(parse(&["check-upstream"]).is_err_and(|line| line.contains("--openai-base-url")));
}
#[test]
fn the_token_of_a_bot_is_in_nothing_that_is_shown() -> Result<(), String> {
    let bot = ["--responder", "grpc", "--bot-endpoint", "http://bot:50051", "--bot-token"];
    let shown = match parse(&[&bot[..], &["hunter2", "--check-config"]].concat())? {
        Command::Print(shown) => shown,
        other => return Err(format!("it would {other:?}")),
    };
    assert!(shown.contains("\n# DUOLOGUE_BOT_TOKEN=(hidden)\n"), "{shown}");
    assert!(shown.contains("\nDUOLOGUE_BOT_ENDPOINT=http://bot:50051\n"), "{shown}");
    let served = format!("{:?}", parse(&[&bot[..], &["hunter2"]].concat())?);
    let refused = parse(&[&bot[..], &["hunter 2"]].concat()).err().unwrap_or_default();
    let endpoint = ["--responder", "grpc", "--bot-endpoint", "http://ada:hunter2@bot"];
    let address = parse(&endpoint).err().unwrap_or_default();
    assert!(refused.starts_with("--bot-token") && address.starts_with("--bot-endpoint"));
    for text in [shown, served, refused, address] {
        assert!(!text.contains("hunter"), "{text}");
    }
    Ok(())
}
