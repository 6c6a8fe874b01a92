//! The scripts. Each is one atomic step on the server.

use redis::Script;

/// The text before every script of a session.
const COMMON: &str = include_str!("scripts/common.lua");

macro_rules! scripts {
    ($($(#[$doc:meta])* $name:ident: $flags:literal $common:ident,)*) => {
        /// The scripts, by name.
        #[derive(Debug)]
        pub(super) struct Scripts {
            $($(#[$doc])* pub(super) $name: Named,)*
        }

        impl Scripts {
            pub(super) fn new() -> Self {
                Self {
                    $($name: Named::new(
                        stringify!($name),
                        $flags,
                        $common,
                        include_str!(concat!("scripts/", stringify!($name), ".lua")),
                    ),)*
                }
            }
        }
    };
}

const NOTHING: &str = "";

scripts! {
    append: "" COMMON,
    /// An accepted turn can be ended though the memory of the server is used up.
    answer: " flags=allow-oom" COMMON,
    checkpoint: "" COMMON,
    create: "" COMMON,
    enter: "" COMMON,
    find: " flags=no-writes" NOTHING,
    hand_over: "" COMMON,
    heartbeat: "" NOTHING,
    issue: "" COMMON,
    leave: " flags=allow-oom" COMMON,
    read: " flags=no-writes" COMMON,
    renew: " flags=allow-oom" COMMON,
    revoke: " flags=allow-oom" COMMON,
    revoke_token: " flags=allow-oom" COMMON,
    set_title: "" COMMON,
    stop: " flags=allow-oom" COMMON,
    sweep: " flags=allow-oom" COMMON,
    take_over: " flags=allow-oom" COMMON,
    tokens: " flags=no-writes" COMMON,
    unanswered: " flags=no-writes" COMMON,
}

/// A script and its name, for metrics.
#[derive(Debug)]
pub(super) struct Named {
    pub(super) name: &'static str,
    pub(super) script: Script,
}

impl Named {
    fn new(name: &'static str, flags: &str, common: &str, text: &str) -> Self {
        // With this line a server refuses keys of another slot, in a cluster and alone.
        Self { name, script: Script::new(&format!("#!lua{flags}\n{common}\n{text}")) }
    }
}
