//! A scripted bot behind a real socket, and a connection to it that can fail.

use std::{
    collections::VecDeque,
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use duologue::{
    proto::{
        self, RespondRequest, RespondResponse,
        respond_response::Event,
        responder_service_server::{ResponderService, ResponderServiceServer},
    },
    responder::grpc,
};
use futures_util::{StreamExt as _, TryStreamExt as _, stream, stream::BoxStream};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Semaphore, mpsc, watch},
};
use tokio_rustls::TlsAcceptor;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status, metadata::MetadataMap, transport::Server};

use super::soon;

/// A step of a bot's script.
#[derive(Clone, Debug)]
pub enum Act {
    /// Says this; an empty text is a sign of life.
    Say(&'static str),
    /// Says this much.
    Flood(usize),
    /// Sends a text many times.
    Chatter(&'static str, usize),
    /// Sends a frame of an unknown kind.
    Babble,
    /// Sends an event.
    Send(Event),
    /// Sends an outcome.
    Outcome(proto::ReplyOutcome),
    /// Ends with a status. As the first step, before the head of the response.
    Fail(Status),
    /// Waits for the test.
    Gate,
    /// Never continues.
    Hang,
    /// Dies.
    Panic,
}

impl Act {
    /// The outcome `complete`.
    pub fn done() -> Self {
        Self::Outcome(proto::ReplyOutcome {
            finish_reason: Some("stop".into()),
            ..Default::default()
        })
    }
}

/// A piece of a tool call of the bot's own, which it runs itself.
pub fn bot_call(id: &str, arguments: &str) -> Act {
    let call = proto::ToolCall {
        id: id.into(),
        name: "clock".into(),
        arguments: arguments.into(),
        plain_text: false,
        responder_executed: true,
    };
    let piece = Some(proto::reply_delta::Piece::ToolCall(call));
    Act::Send(Event::Delta(proto::ReplyDelta { piece }))
}

/// A whole part.
pub fn bot_part(content: proto::part::Content) -> Act {
    Act::Send(Event::Part(proto::Part { content: Some(content), ..Default::default() }))
}

/// An event that a bot sees.
#[derive(Debug)]
pub enum Seen {
    Called(Box<RespondRequest>, MetadataMap),
    /// The gateway cancelled a call.
    LetGo,
    /// A call ended.
    Ended,
}

/// Plays one script per call, and the last one again for all further calls.
#[derive(Clone)]
struct Player {
    scripts: Arc<Mutex<VecDeque<Vec<Act>>>>,
    gate: Arc<Semaphore>,
    seen: mpsc::UnboundedSender<Seen>,
}

/// A running bot.
pub struct TestBot {
    pub addr: SocketAddr,
    pub gate: Arc<Semaphore>,
    seen: mpsc::UnboundedReceiver<Seen>,
}

impl TestBot {
    pub async fn start(scripts: &[&[Act]]) -> Self {
        Self::start_at(([127, 0, 0, 1], 0).into(), scripts).await
    }

    pub async fn start_at(addr: SocketAddr, scripts: &[&[Act]]) -> Self {
        Self::serve(addr, Server::builder(), scripts).await
    }

    /// Starts a bot that accepts a limited number of concurrent calls per connection.
    pub async fn start_narrow(calls: u32, scripts: &[&[Act]]) -> Self {
        let server = Server::builder().max_concurrent_streams(calls);
        Self::serve(([127, 0, 0, 1], 0).into(), server, scripts).await
    }

    async fn serve(addr: SocketAddr, mut server: Server, scripts: &[&[Act]]) -> Self {
        let listener = TcpListener::bind(addr).await.unwrap();
        let addr = listener.local_addr().unwrap();
        let scripts = scripts.iter().map(|script| script.to_vec()).collect();
        let gate = Arc::new(Semaphore::new(0));
        let (tell, seen) = mpsc::unbounded_channel();
        let player =
            Player { scripts: Arc::new(Mutex::new(scripts)), gate: Arc::clone(&gate), seen: tell };
        let service = ResponderServiceServer::new(player);
        // Nagle's algorithm would delay frames in real time, while a test holds the clock.
        let incoming = TcpListenerStream::new(listener)
            .inspect_ok(|stream: &TcpStream| stream.set_nodelay(true).unwrap());
        tokio::spawn(server.add_service(service).serve_with_incoming(incoming));
        Self { addr, gate, seen }
    }

    pub async fn seen(&mut self) -> Seen {
        soon("something that the bot sees", self.seen.recv()).await.unwrap()
    }

    /// The next call.
    pub async fn called(&mut self) -> (RespondRequest, MetadataMap) {
        loop {
            if let Seen::Called(request, metadata) = self.seen().await {
                return (*request, metadata);
            }
        }
    }

    /// Returns true if there was no further call.
    pub fn is_idle(&mut self) -> bool {
        let mut seen = std::iter::from_fn(|| self.seen.try_recv().ok());
        !seen.any(|seen| matches!(seen, Seen::Called(..)))
    }

    /// Waits for the end of the next call. Returns true if the gateway cancelled it.
    pub async fn let_go(&mut self) -> bool {
        loop {
            match self.seen().await {
                Seen::Called(..) => {}
                Seen::LetGo => return true,
                Seen::Ended => return false,
            }
        }
    }
}

/// Settings for a bot at this address, without retries.
pub fn calls(addr: SocketAddr) -> grpc::Settings {
    let endpoint = grpc::Endpoint::parse(&format!("http://{addr}")).unwrap();
    grpc::Settings { retries: 0, ..grpc::Settings::new(endpoint) }
}

struct Watched {
    seen: mpsc::UnboundedSender<Seen>,
    ended: bool,
}

impl Drop for Watched {
    fn drop(&mut self) {
        let seen = if self.ended { Seen::Ended } else { Seen::LetGo };
        let _nobody_asks = self.seen.send(seen);
    }
}

#[tonic::async_trait]
impl ResponderService for Player {
    type RespondStream = BoxStream<'static, Result<RespondResponse, Status>>;

    async fn respond(
        &self,
        request: Request<RespondRequest>,
    ) -> Result<Response<Self::RespondStream>, Status> {
        let (metadata, _, request) = request.into_parts();
        let _nobody_asks = self.seen.send(Seen::Called(Box::new(request), metadata));
        let mut watched = Watched { seen: self.seen.clone(), ended: false };
        let script = {
            let mut scripts = self.scripts.lock().unwrap();
            let last = scripts.len() == 1;
            VecDeque::from(if last { scripts[0].clone() } else { scripts.pop_front().unwrap() })
        };
        if let Some(Act::Fail(status)) = script.front() {
            watched.ended = true;
            return Err(status.clone());
        }
        if matches!(script.front(), Some(Act::Hang)) {
            std::future::pending::<()>().await;
        }
        let frame = |event| Some(Ok(RespondResponse { event: Some(event) }));
        let said = move |text: String| {
            let piece = Some(proto::reply_delta::Piece::Text(text));
            frame(Event::Delta(proto::ReplyDelta { piece }))
        };
        let gate = Arc::clone(&self.gate);
        let frames = stream::unfold((script, watched, gate), move |state| async move {
            let (mut script, mut watched, gate) = state;
            let item = loop {
                break match script.pop_front() {
                    Some(Act::Say(text)) => said(text.into()),
                    Some(Act::Flood(size)) => said("x".repeat(size)),
                    Some(Act::Chatter(_, 0)) => continue,
                    Some(Act::Chatter(text, times)) => {
                        script.push_front(Act::Chatter(text, times - 1));
                        said(text.into())
                    }
                    Some(Act::Babble) => Some(Ok(RespondResponse { event: None })),
                    Some(Act::Send(event)) => frame(event),
                    Some(Act::Outcome(outcome)) => frame(Event::Outcome(outcome)),
                    Some(Act::Fail(status)) => {
                        watched.ended = true;
                        script.clear();
                        Some(Err(status))
                    }
                    Some(Act::Gate) => {
                        gate.acquire().await.unwrap().forget();
                        continue;
                    }
                    Some(Act::Hang) => std::future::pending().await,
                    Some(Act::Panic) => panic!("as scripted"),
                    None => {
                        watched.ended = true;
                        None
                    }
                };
            };
            item.map(|item| (item, (script, watched, gate)))
        });
        Ok(Response::new(frames.boxed()))
    }
}

/// A response of a server that is not a correct bot: head, body and trailers.
pub type Answer = (http::Response<()>, &'static str, http::HeaderMap);

/// Answers HTTP/2 requests with these responses in order, and with the last one again for all
/// further requests.
pub async fn answering(answers: Vec<Answer>) -> SocketAddr {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let mut answers = VecDeque::from(answers);
        let mut connection =
            h2::server::handshake(listener.accept().await.unwrap().0).await.unwrap();
        while let Some(Ok((_, mut respond))) = connection.accept().await {
            let next =
                if answers.len() == 1 { answers.front().cloned() } else { answers.pop_front() };
            let (head, body, trailers) = next.unwrap();
            let mut stream = respond.send_response(head, false).unwrap();
            stream.send_data(body.into(), false).unwrap();
            stream.send_trailers(trailers).unwrap();
        }
    });
    addr
}

/// The state of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LineState {
    Good,
    /// No byte passes, and neither end notices.
    Silent,
    /// Gone.
    Cut,
}

/// A connection to a bot that fails on command.
pub async fn line(to: SocketAddr) -> (SocketAddr, watch::Sender<LineState>) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let addr = listener.local_addr().unwrap();
    let (control, state) = watch::channel(LineState::Good);
    tokio::spawn(async move {
        while let Ok((mut near, _)) = listener.accept().await {
            let mut state = state.clone();
            tokio::spawn(async move {
                let mut far = TcpStream::connect(to).await.unwrap();
                tokio::select! {
                    _ = tokio::io::copy_bidirectional(&mut near, &mut far) => return,
                    _ = state.wait_for(|state| *state != LineState::Good) => {}
                }
                // Held open until then.
                let _gone = state.wait_for(|state| *state == LineState::Cut).await;
            });
        }
    });
    (addr, control)
}

/// A connection to a bot with TLS on the gateway's side.
pub async fn tls_line(to: SocketAddr, tls: TlsAcceptor) -> SocketAddr {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((near, _)) = listener.accept().await {
            let tls = tls.clone();
            tokio::spawn(async move {
                let Ok(mut near) = tls.accept(near).await else { return };
                let mut far = TcpStream::connect(to).await.unwrap();
                let _gone = tokio::io::copy_bidirectional(&mut near, &mut far).await;
            });
        }
    });
    addr
}
