//! The tree of turns: where a new user message belongs, and whether it was accepted before.
//!
//! Every store asks these rules within the atomic step of its append.

use std::sync::Arc;

use crate::session::{
    model::{Content, Error, ErrorKind, Message, Part, PartContent, Role, Timestamp, UserFields},
    ports::{NewTurn, Question},
};

/// The log of a session, as an append reads it.
pub trait LogView {
    /// The failure of a read, or of a rule.
    type Failure: From<Error>;

    /// Returns the message of a number.
    ///
    /// # Errors
    /// The read failed.
    fn message(&self, seq: u32) -> Result<Option<Arc<Message>>, Self::Failure>;

    /// Returns the user message of a `client_message_id`.
    ///
    /// # Errors
    /// The read failed.
    fn by_client_message_id(&self, id: &str) -> Result<Option<Arc<Message>>, Self::Failure>;

    /// Returns the reply to a user message.
    ///
    /// # Errors
    /// The read failed.
    fn reply_to(&self, question: &Message) -> Result<Option<Arc<Message>>, Self::Failure>;

    /// Returns the number of the newest user message. 0: none.
    ///
    /// # Errors
    /// The read failed.
    fn newest_turn(&self) -> Result<u32, Self::Failure>;
}

/// The place of a new turn.
#[derive(Debug)]
pub enum Placed {
    /// The message was appended before.
    Before {
        /// The message.
        message: Arc<Message>,
        /// Number of the reply to it.
        reply_seq: Option<u32>,
    },
    /// The message is new.
    New(Box<PlacedTurn>),
}

/// A new user message with its place in the tree.
#[derive(Debug)]
pub struct PlacedTurn {
    turn: NewTurn,
    content: Content,
    fields: UserFields,
}

impl PlacedTurn {
    /// Returns the message under its number.
    #[must_use]
    #[inline]
    pub fn into_message(self, seq: u32, created_at: Timestamp) -> Message {
        let Self { turn, content, fields } = self;
        let role = Role::User(fields);
        Message { seq, id: turn.id, content, created_at, metadata: turn.metadata, role }
    }

    /// Returns the bytes of the message.
    #[must_use]
    pub fn size(&self) -> usize {
        let options = self.fields.options.as_ref().map_or(0, |options| options.size());
        self.content.size() + self.turn.metadata.size() + options
    }
}

/// Finds the place of a new turn.
///
/// # Errors
/// `MessageIdReused` and `InvalidArgument`, as [`Turns::append`](crate::session::Turns::append)
/// lists them, and failures of the log.
pub fn place<L: LogView>(log: &L, turn: NewTurn) -> Result<Placed, L::Failure> {
    if let Some(id) = &turn.client_message_id
        && let Some(message) = log.by_client_message_id(id)?
    {
        if !is_retry(log, &turn, &message)? {
            return Err(Error::from(ErrorKind::MessageIdReused).into());
        }
        let reply_seq = log.reply_to(&message)?.map(|reply| reply.seq);
        return Ok(Placed::Before { message, reply_seq });
    }
    let placed = match &turn.question {
        Question::New { content, parent_seq } => {
            let parent_seq = match parent_seq {
                None => log.newest_turn()?,
                Some(0) => 0,
                Some(seq) => turn_of(log, *seq)?.seq,
            };
            check_results(log, content, parent_seq)?;
            let fields = UserFields {
                client_message_id: turn.client_message_id.clone(),
                parent_seq,
                regenerates_seq: None,
                options: turn.options.clone(),
            };
            PlacedTurn { content: content.clone(), fields, turn }
        }
        Question::Again { seq } => again(log, *seq, turn)?,
    };
    Ok(Placed::New(Box::new(placed)))
}

fn again<L: LogView>(log: &L, seq: u32, mut turn: NewTurn) -> Result<PlacedTurn, L::Failure> {
    let original = original(log, seq)?;
    let Some(asked) = original.user() else {
        return Err(Error::internal("a turn without a user message").into());
    };
    if turn.metadata.is_empty() {
        turn.metadata = original.metadata.clone();
    }
    let fields = UserFields {
        client_message_id: turn.client_message_id.clone(),
        parent_seq: asked.parent_seq,
        // The first original, never a chain.
        regenerates_seq: Some(asked.regenerates_seq.unwrap_or(original.seq)),
        options: turn.options.clone().or_else(|| asked.options.clone()),
    };
    Ok(PlacedTurn { content: original.content.clone(), fields, turn })
}

/// Returns the user message of the turn to repeat. 0: the newest turn.
fn original<L: LogView>(log: &L, seq: u32) -> Result<Arc<Message>, L::Failure> {
    match seq {
        0 => match log.newest_turn()? {
            0 => Err(invalid("There is no turn to repeat").into()),
            newest => turn_of(log, newest),
        },
        seq => turn_of(log, seq),
    }
}

/// Returns the user message of the turn that a message belongs to.
fn turn_of<L: LogView>(log: &L, seq: u32) -> Result<Arc<Message>, L::Failure> {
    let missing = || invalid(format!("There is no message {seq}"));
    let message = log.message(seq)?.ok_or_else(missing)?;
    let turn_seq = message.turn_seq();
    if turn_seq == seq {
        return Ok(message);
    }
    Ok(log.message(turn_seq)?.ok_or_else(missing)?)
}

/// Returns true if the message is the one that `turn` sends again: it has the same content, and
/// the parent or the original that is given explicitly.
fn is_retry<L: LogView>(log: &L, turn: &NewTurn, message: &Message) -> Result<bool, L::Failure> {
    let Some(known) = message.user() else { return Ok(false) };
    Ok(match (&turn.question, known.regenerates_seq) {
        (Question::New { content, parent_seq }, None) => {
            let same_parent = match parent_seq {
                None => true,
                Some(0) => known.parent_seq == 0,
                Some(seq) => log.message(*seq)?.map(|it| it.turn_seq()) == Some(known.parent_seq),
            };
            same_parent && *content == message.content
        }
        (Question::Again { seq: 0 }, Some(_)) => true,
        (Question::Again { seq }, Some(first)) => {
            let original = turn_of(log, *seq)?;
            let asked = original.user().and_then(|user| user.regenerates_seq);
            asked.unwrap_or(original.seq) == first
        }
        (Question::New { .. }, Some(_)) | (Question::Again { .. }, None) => false,
    })
}

/// Checks that results and decisions belong to open calls and requests of the parent turn's reply.
fn check_results<L: LogView>(log: &L, content: &Content, parent: u32) -> Result<(), L::Failure> {
    if !content.parts().iter().any(|part| Reference::of(part).is_some()) {
        return Ok(());
    }
    let parent = log.message(parent)?;
    let reply = match &parent {
        Some(question) => log.reply_to(question)?,
        None => None,
    };
    let Some(reply) = reply else {
        return Err(invalid("The parent turn has no reply that asks for results").into());
    };
    let mut seen = Vec::new();
    for reference in content.parts().iter().filter_map(Reference::of) {
        if seen.contains(&reference) || !reference.is_open(reply.content.parts()) {
            let (name, id) = reference.name();
            return Err(invalid(format!("The parent turn has no open {name} {id}")).into());
        }
        seen.push(reference);
    }
    Ok(())
}

/// The call or request that a part of a user message answers.
#[derive(PartialEq, Eq)]
enum Reference<'a> {
    Call(&'a str),
    Approval(&'a str),
}

impl<'a> Reference<'a> {
    fn of(part: &'a Part) -> Option<Self> {
        match &part.content {
            PartContent::ToolResult(result) => Some(Self::Call(&result.tool_call_id)),
            PartContent::ApprovalResponse(response) => Some(Self::Approval(&response.approval_id)),
            PartContent::Text(_)
            | PartContent::Reasoning(_)
            | PartContent::ToolCall(_)
            | PartContent::File(_)
            | PartContent::Source(_)
            | PartContent::Data(_)
            | PartContent::ApprovalRequest(_) => None,
        }
    }

    const fn name(&self) -> (&'static str, &'a str) {
        match self {
            Self::Call(id) => ("tool call", id),
            Self::Approval(id) => ("approval request", id),
        }
    }

    /// Returns true if the parts of a reply hold the call or the request, and not its result.
    fn is_open(&self, parts: &[Part]) -> bool {
        let asks = |part: &Part| match (self, &part.content) {
            (Self::Call(id), PartContent::ToolCall(call)) => *call.id == **id,
            (Self::Approval(id), PartContent::ApprovalRequest(request)) => *request.id == **id,
            _ => false,
        };
        let answered = parts.iter().filter_map(Reference::of).any(|known| known == *self);
        parts.iter().any(asks) && !answered
    }
}

fn invalid(message: impl Into<std::borrow::Cow<'static, str>>) -> Error {
    Error::new(ErrorKind::InvalidArgument, message)
}
