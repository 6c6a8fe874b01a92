//! Values of the core: validated on construction, without I/O.

mod budgets;
mod clock;
mod content;
mod credential;
mod error;
mod id;
pub(crate) mod json;
mod message;
mod metadata;
mod name;
mod new_message;
mod part_record;
mod position;
mod session;
mod token;
mod turn_options;

pub use budgets::{Budgets, Spent};
pub use clock::{Clock, Timestamp};
pub use content::{
    ApprovalRequest, ApprovalResponse, Citation, Content, ContentLimits, Data, File, Part,
    PartContent, Source, ToolCall, ToolResult, parts_from_json, parts_to_json,
};
pub use credential::{Credential, CredentialForm, Identity, IdentityKind};
pub use error::{Error, ErrorKind};
pub use id::{MessageId, SessionId, TokenId};
pub use message::{
    Failure, Message, ReplyFields, Role, Status, Usage, UserFields, estimate_tokens,
};
pub use metadata::Metadata;
pub use name::Name;
pub use new_message::{MessageLimits, NewMessage, Regeneration, given_id};
pub use position::{Epoch, Position, ReplyPosition};
pub use session::{Session, check_title};
pub use token::{Scope, Token, TokenHash, TokenRecord, check_label};
pub use turn_options::{Tool, TurnOption, TurnOptions};

/// The result of a fallible operation of the core.
pub type Result<T, E = Error> = std::result::Result<T, E>;
