//! What the gateway promises, each promise over every protocol.
//!
//! One binary: it links once. The clients are in `support`; a promise is a file.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]
#![expect(unreachable_pub, reason = "what support offers is for this binary")]

mod support;

mod administration;
mod administration_backup;
mod administration_delete;
mod administration_formats;
mod administration_owners;
mod administration_servers;
mod administration_transfer;
mod bot;
mod bot_connection;
mod bot_limits;
mod bot_parts;
mod bounded;
mod branches;
mod budgets;
mod callers;
mod clock_jumps;
mod conversations;
mod crash;
mod damaged_files;
mod disk_errors;
mod documented_frames;
mod drain;
mod expiry;
mod grpc_calls;
mod heads;
mod isolation;
mod jwt;
mod limits_per_caller;
mod logs;
mod nodes;
mod nodes_replies;
mod nodes_takeover;
mod old_files;
mod once;
mod operations;
mod order;
mod panics;
mod parts;
mod power_cut;
mod process;
mod progress;
mod proxies;
mod redis;
mod redis_failover;
mod redis_loss;
mod redis_promises;
mod reply;
mod rest_contract;
mod resume;
mod resume_reply;
mod server_sent_events;
mod silence;
mod stop;
mod store_contract;
mod store_failures;
mod store_histories;
mod store_limits;
mod store_messages;
mod store_tokens;
mod store_turns;
mod structure;
mod tls;
mod tokens;
mod tool_turns;
mod turn_options;
mod turns_in_flight;
mod unix_socket;
mod unread;
mod upstream;
mod upstream_choice;
mod upstream_failures;
mod upstream_http2;
mod upstream_parts;
mod upstream_process;
mod upstream_prompt;
mod upstream_stream;
mod upstream_timeouts;
mod websocket;

/// A file that is not listed above would never run.
#[test]
fn every_file_of_promises_runs() {
    let own = include_str!("promises.rs");
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests");
    for entry in std::fs::read_dir(folder).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        if let Some(module) = name.strip_suffix(".rs") {
            assert!(module == "promises" || own.contains(&format!("\nmod {module};")), "{name}");
        }
    }
}
