//! One open WebSocket (RFC 6455).

use std::{
    pin::pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use futures_util::{SinkExt as _, StreamExt as _, future::poll_immediate};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    time::{Instant, timeout},
};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        Error as WsError, Message,
        error::CapacityError,
        protocol::{CloseFrame, Role, WebSocketConfig},
    },
};

use super::plain::AnswerQueue;
use crate::{
    session::{Error, ErrorKind, Result, Settings as Limits},
    telemetry::PEER,
    transport::{
        TransportContext,
        codec::Codec,
        status,
        stream::{ClientStream, Close, Inbound, InboundSource, Outbound, StreamRecord},
    },
};

type Stream = WebSocketStream<TokioIo<Upgraded>>;

/// Bytes read at a time. tungstenite clears the whole buffer before every read, and
/// keeps it while the connection is idle.
const READ_BUFFER: usize = 2048;

/// Bytes gathered before they are written without a flush.
const WRITE_BUFFER: usize = 4096;

/// Serves a connection until it ends.
pub(super) async fn run(
    connection: Upgraded,
    context: &TransportContext,
    client_stream: ClientStream,
    codec: Codec,
) {
    let io = TokioIo::new(connection);
    let config = config(codec, context.gateway.settings());
    let stream = WebSocketStream::from_raw_socket(io, Role::Server, Some(config)).await;
    let last_frame = Instant::now();
    let frames = Incoming {
        stream,
        codec,
        max_text: context.gateway.settings().messages.content.max_text_size,
        last_frame,
        asked: false,
        paused: false,
        answering: false,
        close: None,
    };
    let mut socket = Socket {
        frames,
        context,
        codec,
        awaited: AnswerQueue::default(),
        pinged: None,
        unflushed: false,
    };
    // Boxed, since most of the future is needed only at the end.
    let (ending, record) = socket.converse(client_stream).await;
    Box::pin(socket.end(ending, record)).await;
}

fn config(codec: Codec, limits: &Limits) -> WebSocketConfig {
    let content = &limits.messages.content;
    let max_frame = match codec {
        Codec::Plain => codec.max_frame(content.max_text_size),
        Codec::Json | Codec::Proto => codec.max_frame(content.max_size),
    };
    // The largest frame is a whole reply; another one may be in the buffer.
    let largest = limits.max_reply_size.max(content.max_size);
    let max_write = WRITE_BUFFER + 2 * Codec::Json.max_frame(largest);
    WebSocketConfig::default()
        .read_buffer_size(READ_BUFFER)
        .write_buffer_size(WRITE_BUFFER)
        .max_write_buffer_size(max_write)
        .max_message_size(Some(max_frame))
        .max_frame_size(Some(max_frame))
}

/// The end of a socket.
enum SocketEnd {
    /// The client closed it, or disconnected.
    Theirs,
    /// The stream has ended with an error.
    Ours(Error),
    /// The socket has failed: the client does not read, or does not answer.
    Failed(Error),
    /// Nothing can be written any more.
    Broken,
}

struct Socket<'a> {
    frames: Incoming,
    context: &'a TransportContext,
    codec: Codec,
    awaited: AnswerQueue,
    pinged: Option<Instant>,
    unflushed: bool,
}

impl Socket<'_> {
    /// Exchanges frames until the stream ends. Returns its account; the subscription is over.
    async fn converse(&mut self, mut stream: ClientStream) -> (SocketEnd, StreamRecord) {
        let ending = loop {
            self.frames.pause(self.awaited.is_full());
            let Ok(outbound) = self.next(&mut stream).await else { break SocketEnd::Broken };
            if let Some(ending) = self.write(outbound, &mut stream).await {
                break ending;
            }
        };
        if let SocketEnd::Failed(error) = &ending {
            stream.record.failed(error.kind());
        }
        (ending, stream.record)
    }

    /// Returns the next item. Items that are ready are written together and flushed once, before
    /// anything is awaited. After a request of the client, the connection is read again before the
    /// flush: further requests may have arrived. Otherwise the read is omitted, since it would only
    /// delay a reply.
    async fn next(&mut self, stream: &mut ClientStream) -> Result<Outbound, SendError> {
        if self.unflushed {
            if self.frames.asked || stream.has_more() {
                let ready = poll_immediate(stream.next(&mut self.frames)).await;
                if let Some(outbound) = ready {
                    return Ok(outbound);
                }
            }
            self.frames.asked = false;
            self.flush().await?;
        }
        Ok(stream.next(&mut self.frames).await)
    }

    /// Writes the frames of an item.
    async fn write(&mut self, outbound: Outbound, stream: &mut ClientStream) -> Option<SocketEnd> {
        let sent = match (&outbound, self.codec) {
            (Outbound::Heartbeat, _) => self.beat(&outbound).await,
            (_, Codec::Plain) => self.answer(&outbound, stream).await,
            (_, Codec::Json | Codec::Proto) => self.frame(&outbound).await,
        };
        match sent {
            Err(SendError::Refused(error)) => Some(SocketEnd::Failed(error)),
            Err(SendError::Broken) => Some(SocketEnd::Broken),
            Ok(()) => match outbound {
                Outbound::End(Ok(())) => Some(SocketEnd::Theirs),
                Outbound::End(Err(error)) => Some(SocketEnd::Ours(error)),
                Outbound::Opened(_)
                | Outbound::Accepted(_)
                | Outbound::Event(_)
                | Outbound::Refused { .. }
                | Outbound::Pong
                | Outbound::Heartbeat => None,
            },
        }
    }

    async fn beat(&mut self, outbound: &Outbound) -> Result<(), SendError> {
        // No frame since the last ping. A connection that is not read cannot answer.
        let pinged = self.pinged.replace(Instant::now());
        if !self.frames.paused && pinged.is_some_and(|at| self.frames.last_frame < at) {
            return Err(SendError::Refused(ErrorKind::Unresponsive.into()));
        }
        self.feed(Message::Ping(Bytes::new())).await?;
        match self.codec {
            Codec::Plain => Ok(()),
            Codec::Json | Codec::Proto => self.frame(outbound).await,
        }
    }

    async fn answer(
        &mut self,
        outbound: &Outbound,
        stream: &mut ClientStream,
    ) -> Result<(), SendError> {
        let answers: Vec<_> = self.awaited.answers(outbound).collect();
        for text in answers {
            stream.record.answered();
            self.feed(Message::text(text)).await?;
        }
        Ok(())
    }

    async fn frame(&mut self, outbound: &Outbound) -> Result<(), SendError> {
        let limits = self.context.gateway.settings();
        match self.codec.encode(outbound, limits, self.context.settings.heartbeat)? {
            Some(frame) => self.feed(frame).await,
            None => Ok(()),
        }
    }

    async fn feed(&mut self, message: Message) -> Result<(), SendError> {
        self.unflushed = true;
        let send = self.frames.stream.feed(message);
        within(self.context.settings.send_timeout, send).await
    }

    async fn flush(&mut self) -> Result<(), SendError> {
        if std::mem::take(&mut self.unflushed) {
            let flush = self.frames.stream.flush();
            within(self.context.settings.send_timeout, flush).await?;
        }
        Ok(())
    }

    /// Closes the connection. The record is written at the end.
    async fn end(mut self, ending: SocketEnd, mut record: StreamRecord) {
        match ending {
            SocketEnd::Theirs => {
                record.closed_by_client(
                    self.frames.close.map_or(Close::Lost, |code| Close::Code(code, "client")),
                );
                // Flushes the answer to the client's close frame.
                let _gone =
                    timeout(self.context.settings.send_timeout, self.frames.stream.close(None))
                        .await;
            }
            SocketEnd::Ours(error) | SocketEnd::Failed(error) => self.close(&error).await,
            SocketEnd::Broken => record.closed_by_client(Close::Lost),
        }
    }

    /// Closes with the code of the failure, then reads the connection to its end. A close with
    /// unread bytes would reset the connection, and the client might not see the code.
    async fn close(&mut self, error: &Error) {
        /// Longest wait for the client's close frame, and most bytes that are read meanwhile: a client
        /// may send all of a frame that is too large before it reads.
        const LINGER: Duration = Duration::from_secs(2);
        const LINGER_BYTES: u64 = 64 << 20;
        if error.kind() == ErrorKind::Internal {
            tracing::error!(target: PEER, cause = ?error, "stream failed");
        }
        let code = status::row(error.kind()).close;
        let frame = CloseFrame { code: code.into(), reason: error.kind().code().into() };
        let stream = &mut self.frames.stream;
        let sent = timeout(self.context.settings.send_timeout, stream.close(Some(frame))).await;
        if !matches!(sent, Ok(Ok(()))) {
            return;
        }
        let _answered_or_not = timeout(LINGER, async {
            while let Some(Ok(_)) = stream.next().await {}
            let io = stream.get_mut();
            let _half_closed = io.shutdown().await;
            let mut rest = io.take(LINGER_BYTES);
            let mut sink = [0; 1024];
            while rest.read(&mut sink).await.is_ok_and(|read| read > 0) {}
        })
        .await;
    }
}

/// The failure of a write.
enum SendError {
    Refused(Error),
    Broken,
}

impl From<Error> for SendError {
    fn from(error: Error) -> Self {
        Self::Refused(error)
    }
}

impl From<WsError> for SendError {
    fn from(_: WsError) -> Self {
        Self::Broken
    }
}

/// The peer did not read in time.
impl From<tokio::time::error::Elapsed> for SendError {
    fn from(_: tokio::time::error::Elapsed) -> Self {
        Self::Refused(ErrorKind::SlowConsumer.into())
    }
}

/// Waits until the peer has room for a frame. Creates a timer only if it has none at once.
async fn within(
    limit: Duration,
    sending: impl Future<Output = Result<(), WsError>>,
) -> Result<(), SendError> {
    let mut sending = pin!(sending);
    match poll_immediate(&mut sending).await {
        Some(sent) => Ok(sent?),
        None => Ok(timeout(limit, sending).await??),
    }
}

/// The reading side of the socket.
struct Incoming {
    stream: Stream,
    codec: Codec,
    /// In bytes.
    max_text: usize,
    /// Time of the last frame of the client.
    last_frame: Instant,
    /// A request has arrived since the last flush.
    asked: bool,
    paused: bool,
    /// A pong waits to be written.
    answering: bool,
    /// The close code of the client.
    close: Option<u16>,
}

impl InboundSource for Incoming {
    fn poll_inbound(&mut self, cx: &mut Context<'_>) -> Poll<Inbound> {
        if self.paused {
            return Poll::Pending;
        }
        loop {
            // Pongs are flushed before more is read. Otherwise they would accumulate for a client
            // that does not read.
            if self.answering {
                if let Err(error) = ready!(self.stream.poll_flush_unpin(cx)) {
                    return Poll::Ready(Inbound::Gone(refusal(&error)));
                }
                self.answering = false;
            }
            let frame = match ready!(self.stream.poll_next_unpin(cx)) {
                Some(Ok(frame)) => frame,
                Some(Err(error)) => return Poll::Ready(Inbound::Gone(refusal(&error))),
                None => return Poll::Ready(Inbound::Gone(None)),
            };
            self.last_frame = Instant::now();
            match frame {
                Message::Text(_) | Message::Binary(_) => {
                    self.asked = true;
                    return Poll::Ready(self.read(&frame));
                }
                Message::Close(frame) => {
                    self.close = Some(frame.map_or(1005, |frame| frame.code.into()))
                }
                Message::Ping(_) => self.answering = true,
                Message::Pong(_) | Message::Frame(_) => {}
            }
        }
    }
}

impl Incoming {
    /// Pauses or resumes reading. After a pause the client counts as alive: its frames could not be
    /// seen.
    fn pause(&mut self, paused: bool) {
        if self.paused && !paused {
            self.last_frame = Instant::now();
        }
        self.paused = paused;
    }

    fn read(&self, frame: &Message) -> Inbound {
        match self.codec.decode(frame, self.max_text) {
            Ok(request) => Inbound::Request(request),
            Err(error) if error.kind() == ErrorKind::BadFrame => Inbound::Refused(error),
            Err(error) => Inbound::Gone(Some(error)),
        }
    }
}

/// Returns the error to close with. `None` if the connection is lost.
fn refusal(error: &WsError) -> Option<Error> {
    Some(match error {
        WsError::Capacity(CapacityError::MessageTooLong { .. }) => ErrorKind::FrameTooLarge.into(),
        WsError::Utf8(_) => ErrorKind::BadUtf8.into(),
        WsError::Protocol(problem) if !is_loss(problem) => {
            Error::new(ErrorKind::ProtocolViolation, problem.to_string())
        }
        _ => return None,
    })
}

const fn is_loss(problem: &tokio_tungstenite::tungstenite::error::ProtocolError) -> bool {
    use tokio_tungstenite::tungstenite::error::ProtocolError as P;
    matches!(
        problem,
        P::ResetWithoutClosingHandshake | P::SendAfterClosing | P::ReceivedAfterClosing
    )
}
