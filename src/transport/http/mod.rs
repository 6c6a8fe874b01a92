//! Parts that the HTTP transports share: errors as responses, query parameters, and rules for
//! heads.

mod call;
mod error;
mod headers;
mod params;

pub(super) use call::Call;
pub(super) use error::{HttpError, HttpResult, error_response, method_not_allowed};
pub use error::{detail, ready};
pub use headers::{check_head, secure};
pub(super) use params::Params;
