//! `duologue.v1.ChatService`.

use std::{
    sync::Arc,
    task::{Context, Poll},
};

use futures_util::{StreamExt as _, future::OptionFuture, stream, stream::BoxStream};
use tonic::{Code, Request, Response, Status, Streaming, metadata::MetadataMap};

use super::failure;
use crate::{
    proto::{self, chat_service_server::ChatService},
    session::{Error, ErrorKind, NewMessage, Position, Result, Token},
    transport::{
        ConnectionBudget, ResponsePermit, TransportContext, auth, codec,
        rest::token::page_size,
        status,
        stream::{ClientStream, Close, Inbound, InboundSource, ListenOnly, Outbound, StreamRecord},
    },
};

/// See the module.
#[derive(Debug)]
pub(super) struct ChatRpc {
    context: TransportContext,
}

type ResponseStream = BoxStream<'static, std::result::Result<proto::ChatResponse, Status>>;

impl ChatRpc {
    pub(super) const fn new(context: TransportContext) -> Self {
        Self { context }
    }

    async fn create(&self, name: &str) -> Result<proto::CreateTokenResponse> {
        let created = self.context.gateway.create_token(name).await?;
        let start = Position { epoch: created.session.epoch.clone(), seq: 0 };
        Ok(proto::CreateTokenResponse {
            token: created.token.expose(),
            session: Some(codec::session(&created.session)),
            position: Some(codec::wire_position(&start)),
        })
    }

    async fn refresh(
        &self,
        token: &Token,
        request: &proto::RefreshTokenRequest,
        budget: Option<&ConnectionBudget>,
    ) -> Result<(proto::RefreshTokenResponse, Option<ResponsePermit>)> {
        let (after, limit) = (request.after, request.limit);
        let _page = OptionFuture::from(budget.map(ConnectionBudget::page)).await.transpose()?;
        let snapshot = self.context.gateway.refresh_token(token, after, limit).await?;
        let permit = budget.map(|budget| budget.reserve(page_size(&snapshot))).transpose()?;
        Ok((codec::snapshot(&snapshot, after), permit))
    }

    async fn send(
        &self,
        token: &Token,
        request: proto::SendMessageRequest,
    ) -> Result<proto::SendMessageResponse> {
        let gateway = &self.context.gateway;
        let max_size = gateway.settings().max_message_size;
        let draft =
            NewMessage::parse(request.text, request.client_message_id.as_deref(), max_size)?;
        let accepted = gateway.send(token, draft).await?;
        Ok(proto::SendMessageResponse { accepted: Some(codec::accepted(&accepted)) })
    }

    async fn watch(&self, token: &Token, at: Option<proto::Position>) -> Result<ResponseStream> {
        let at = at.map(codec::position).transpose()?;
        let gateway = self.context.gateway.clone();
        let (subscription, opened) = gateway.attach(token, at.as_ref()).await?;
        let settings = Arc::clone(&self.context.settings);
        let conversation = ClientStream::attached(gateway, settings, subscription);
        let first = Some(Outbound::Opened(Box::new(opened)));
        let log = StreamRecord::open("grpc", "subscribe");
        Ok(Call { context: self.context.clone(), conversation, frames: ListenOnly, first, log }
            .responses())
    }
}

#[tonic::async_trait]
impl ChatService for ChatRpc {
    type ChatStream = ResponseStream;
    type SubscribeStream = ResponseStream;

    async fn create_token(
        &self,
        request: Request<proto::CreateTokenRequest>,
    ) -> Result<Response<proto::CreateTokenResponse>, Status> {
        answer(self.create(&request.get_ref().name).await)
    }

    async fn refresh_token(
        &self,
        request: Request<proto::RefreshTokenRequest>,
    ) -> Result<Response<proto::RefreshTokenResponse>, Status> {
        let token = required_token(request.metadata(), &request.get_ref().token)?;
        let budget = request.extensions().get::<ConnectionBudget>();
        let refreshed = self.refresh(&token, request.get_ref(), budget).await;
        let (page, permit) = refreshed.map_err(|error| failure::status(&error))?;
        let mut response = Response::new(page);
        if let Some(permit) = permit {
            response.extensions_mut().insert(permit);
        }
        Ok(response)
    }

    async fn revoke_token(
        &self,
        request: Request<proto::RevokeTokenRequest>,
    ) -> Result<Response<proto::RevokeTokenResponse>, Status> {
        let token = required_token(request.metadata(), &request.get_ref().token)?;
        let revoked = self.context.gateway.revoke_token(&token).await;
        answer(revoked.map(|()| proto::RevokeTokenResponse {}))
    }

    async fn send_message(
        &self,
        request: Request<proto::SendMessageRequest>,
    ) -> Result<Response<proto::SendMessageResponse>, Status> {
        let token = required_token(request.metadata(), &request.get_ref().token)?;
        answer(self.send(&token, request.into_inner()).await)
    }

    async fn stop_reply(
        &self,
        request: Request<proto::StopReplyRequest>,
    ) -> Result<Response<proto::StopReplyResponse>, Status> {
        let token = required_token(request.metadata(), &request.get_ref().token)?;
        let stopped = self.context.gateway.stop(&token).await;
        answer(stopped.map(|stopped| proto::StopReplyResponse { stopped }))
    }

    async fn subscribe(
        &self,
        request: Request<proto::SubscribeRequest>,
    ) -> Result<Response<ResponseStream>, Status> {
        let token = required_token(request.metadata(), &request.get_ref().token)?;
        answer(self.watch(&token, request.into_inner().position).await)
    }

    async fn chat(
        &self,
        request: Request<Streaming<proto::ChatRequest>>,
    ) -> Result<Response<ResponseStream>, Status> {
        let credential = token(request.metadata(), "").map_err(|error| failure::status(&error))?;
        let log = StreamRecord::open("grpc", "chat");
        let context = self.context.clone();
        let settings = Arc::clone(&context.settings);
        let conversation = ClientStream::new(context.gateway.clone(), settings, credential);
        let frames = Requests(request.into_inner());
        answer(Ok(Call { context, conversation, frames, first: None, log }.responses()))
    }
}

fn answer<T>(result: Result<T>) -> Result<Response<T>, Status> {
    result.map(Response::new).map_err(|error| failure::status(&error))
}

fn token(metadata: &MetadataMap, field: &str) -> Result<Option<Token>> {
    let field = Some(field).filter(|field| !field.is_empty());
    auth::one_of([auth::bearer(metadata.as_ref()), field])
}

fn required_token(metadata: &MetadataMap, field: &str) -> Result<Token, Status> {
    let token = token(metadata, field)
        .and_then(|token| token.ok_or_else(|| ErrorKind::MissingToken.into()));
    token.map_err(|error: Error| failure::status(&error))
}

/// The client's side of `Chat`.
struct Requests(Streaming<proto::ChatRequest>);

impl InboundSource for Requests {
    fn poll_inbound(&mut self, cx: &mut Context<'_>) -> Poll<Inbound> {
        self.0.poll_next_unpin(cx).map(|request| match request {
            Some(Ok(request)) => {
                codec::ask(request).map_or_else(Inbound::Refused, Inbound::Request)
            }
            None => Inbound::HalfClosed,
            Some(Err(status)) => Inbound::Gone(undecodable(&status)),
        })
    }
}

/// The failure that tonic's decoder names; `None` if the client is gone.
fn undecodable(status: &Status) -> Option<Error> {
    match status.code() {
        Code::OutOfRange => Some(ErrorKind::FrameTooLarge.into()),
        Code::Internal | Code::Unimplemented => {
            Some(Error::new(ErrorKind::BadFrame, "A request message could not be decoded"))
        }
        _ => None,
    }
}

/// One call that streams responses.
struct Call<F> {
    context: TransportContext,
    conversation: ClientStream,
    frames: F,
    first: Option<Outbound>,
    log: StreamRecord,
}

impl<F: InboundSource + Send + 'static> Call<F> {
    /// Polled by the HTTP/2 connection, only while its peer has room: a reader that
    /// stalls holds up nobody and is held up itself.
    fn responses(self) -> ResponseStream {
        let endings = stream::unfold(Some(self), |call| async {
            let mut call = call?;
            let outbound = match call.first.take() {
                Some(outbound) => outbound,
                None => call.conversation.next(&mut call.frames).await,
            };
            let (items, over) = call.respond(&outbound);
            Some((stream::iter(items), (!over).then_some(call)))
        });
        endings.flatten().boxed()
    }

    /// What goes out for an output, and whether it is the last.
    fn respond(
        &mut self,
        outbound: &Outbound,
    ) -> (Vec<std::result::Result<proto::ChatResponse, Status>>, bool) {
        match outbound {
            Outbound::Opened(opened) => self.log.attached(opened.session.id),
            Outbound::Accepted(_) => self.log.received(),
            Outbound::Refused { error, .. } => self.log.refused(error.kind()),
            Outbound::Event(_) => self.log.sent(),
            Outbound::Pong | Outbound::Heartbeat | Outbound::End(_) => {}
        }
        let limits = self.context.gateway.settings();
        let frame = codec::response(outbound, limits, self.context.settings.heartbeat);
        let mut items: Vec<_> = frame.into_iter().map(Ok).collect();
        if let Outbound::End(end) = outbound {
            if let Err(error) = end {
                items.push(Err(failure::status(error)));
            }
            self.log.closes(ending(end));
        }
        (items, matches!(outbound, Outbound::End(_)))
    }
}

/// The gRPC code that a stream ends with.
fn ending(end: &Result<()>) -> Close {
    match end {
        Ok(()) => Close::Code(0, "ok"),
        Err(error) => Close::Code(status::row(error.kind()).grpc as u16, error.kind().code()),
    }
}
