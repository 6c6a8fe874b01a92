//! The core: every rule that all transports must agree on.
//!
//! A [`Gateway`] owns every session. Transports authenticate and decode, call it, and encode the
//! result; they contain no rule of the conversation. The core knows no transport and no client
//! library: storage and reply production are behind the traits [`Store`] and [`Responder`].
//!
//! - `model`: validated values. `ports`: the traits that other modules implement.
//! - `live`: the sessions that are active in this process, their subscribers and events.
//! - `turn`: accepts user messages and runs the responder, one turn at a time.
//! - `service`: the operations, one file per group; `caller`: the origin of an operation. `lifecycle`: start and shutdown.
//! - `quota`: limits per caller. `sweeper`: ends expired and removed sessions. `peers`: follows the changes of
//!   other processes, `outbox`: messages to them. `sync`: the lock whose schedules are tested.

mod address_label;
mod caller;
mod core;
mod eager_task;
mod lifecycle;
mod live;
mod living_peers;
mod metrics;
mod model;
mod outbox;
mod panic;
mod peers;
mod ports;
mod quota;
mod revoked_tokens;
#[cfg(all(test, feature = "schedules"))]
mod schedules;
mod service;
mod settings;
mod sweeper;
mod sync;
mod turn;

pub use caller::{Caller, PeerAddress};
pub use eager_task::EagerTask;
pub use lifecycle::Drained;
pub use live::{
    encoded::EncodedForms,
    event::{
        Accepted, Delta, DeltaPiece, Event, MessageEvent, Opened, ReplyPart, ReplyStarted,
        ToolCallPiece,
    },
    subscription::Subscription,
};
pub use model::{
    ApprovalRequest, ApprovalResponse, Budgets, Citation, Clock, Content, ContentLimits,
    Credential, CredentialForm, Data, Epoch, Error, ErrorKind, Failure, File, Identity,
    IdentityKind, Message, MessageId, MessageLimits, Metadata, Name, NewMessage, Part, PartContent,
    Position, Regeneration, ReplyFields, ReplyPosition, Result, Role, Scope, Session, SessionId,
    Source, Spent, Status, Timestamp, Token, TokenHash, TokenId, TokenRecord, Tool, ToolCall,
    ToolResult, TurnOption, TurnOptions, Usage, UserFields, check_label, check_title,
    estimate_tokens, given_id, parts_from_json, parts_to_json,
};
pub use ports::{
    Answered, AppendLimits, Appended, Authenticator, Checkpoint, Checkpointed, Chunk, Chunks,
    Entered, FoundSession, Head, History, Known, Lease, ListCursor, ListedSession, NewReply,
    NewSession, NewTurn, NoCredentials, NodeId, Note, Origin, Outcome, Page, Peer, PeerMessage,
    Peers, Piece, Prompt, Question, Received, RemoteReply, Reply, Responder, Share, ShareOf,
    Snapshot, Storage, Store, Swept, Turns, Unfinished, WaitingTurn,
};
pub use quota::{CallerLimits, ConnectionSlot, Limits, StreamSlot};
pub use service::{Created, Gateway, ListRequest, NewToken, PageRequest, Revocation, SessionList};
pub use settings::{Access, AddressLog, Settings};
pub use turn::{LogView, MAX_ATTEMPTS, Placed, PlacedTurn, place};
