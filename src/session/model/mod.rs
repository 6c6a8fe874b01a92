//! Values of the core: validated on construction, without I/O.

mod clock;
mod error;
mod id;
mod message;
mod name;
mod new_message;
mod position;
mod session;
mod token;

pub use clock::{Clock, Timestamp};
pub use error::{Error, ErrorKind};
pub use id::{MessageId, SessionId};
pub use message::{Failure, Message, Role, Status, Usage, estimate_tokens};
pub use name::Name;
pub use new_message::NewMessage;
pub use position::{Epoch, Position};
pub use session::Session;
pub use token::{Token, TokenHash};

/// The result of a fallible operation of the core.
pub type Result<T, E = Error> = std::result::Result<T, E>;
