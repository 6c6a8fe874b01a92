//! The scripts. Each is one atomic step on the server.

use redis::Script;

/// The text before every script of a session.
const COMMON: &str = include_str!("scripts/common.lua");

macro_rules! scripts {
    ($($(#[$doc:meta])* $name:ident: $flags:literal $common:ident $($durable:ident)?,)*) => {
        /// The scripts, by name.
        #[derive(Debug)]
        pub(super) struct Scripts {
            $($(#[$doc])* pub(super) $name: Named,)*
        }

        impl Scripts {
            pub(super) fn new() -> Self {
                Self {
                    $($name: Named {
                        is_durable: false $(|| stringify!($durable) == "durable")?,
                        ..Named::new(
                            stringify!($name),
                            $flags,
                            $common,
                            include_str!(concat!("scripts/", stringify!($name), ".lua")),
                        )
                    },)*
                }
            }
        }
    };
}

const NOTHING: &str = "";

scripts! {
    append: "" COMMON durable,
    /// An accepted turn can be ended though the memory of the server is used up.
    answer: " flags=allow-oom" COMMON durable,
    checkpoint: "" COMMON,
    create: "" COMMON durable,
    enter: " flags=allow-oom" COMMON,
    find: " flags=no-writes" NOTHING,
    hand_over: " flags=allow-oom" COMMON,
    import: "" COMMON durable,
    heartbeat: " flags=allow-oom" NOTHING,
    issue: "" COMMON durable,
    leave: " flags=allow-oom" COMMON,
    read: " flags=no-writes" COMMON,
    renew: " flags=allow-oom" COMMON durable,
    revoke: " flags=allow-oom" COMMON durable,
    revoke_token: " flags=allow-oom" COMMON durable,
    set_title: "" COMMON durable,
    show: " flags=no-writes" COMMON,
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
    /// With `--redis-ack replica` the call waits until a replica has the write.
    pub(super) is_durable: bool,
}

impl Named {
    /// Returns the script of a partition's term.
    pub(super) fn term() -> Self {
        Self::new("term", " flags=allow-oom", NOTHING, include_str!("scripts/term.lua"))
    }

    fn new(name: &'static str, flags: &str, common: &str, text: &str) -> Self {
        // With this line a server refuses keys of another slot, in a cluster and alone.
        let script = Script::new(&format!("#!lua{flags}\n{common}\n{text}"));
        Self { name, script, is_durable: false }
    }
}
