//! The service `duologue.v1.ChatService`.

use std::task::{Context, Poll};

use futures_util::{StreamExt as _, future::OptionFuture, stream, stream::BoxStream};
use tonic::{Code, Request, Response, Status, Streaming, metadata::MetadataMap};

use super::failure;
use crate::{
    proto::{self, chat_service_server::ChatService},
    session::{Caller, Error, ErrorKind, NewMessage, Position, Result, Token},
    transport::{
        ConnectionBudget, ConnectionContext, ResponsePermit, TransportContext, auth, codec,
        page_size,
        stream::{
            ClientStream, Inbound, InboundSource, ListenOnly, Outbound, Protocol, StreamRecord,
        },
    },
};

#[derive(Debug)]
pub(super) struct ChatRpc {
    context: TransportContext,
}

type ResponseStream = BoxStream<'static, std::result::Result<proto::ChatResponse, Status>>;

impl ChatRpc {
    pub(super) const fn new(context: TransportContext) -> Self {
        Self { context }
    }

    async fn create(&self, caller: &Caller, name: &str) -> Result<proto::CreateTokenResponse> {
        let created = self.context.gateway.create_token(caller, name).await?;
        let start = Position { epoch: created.session.epoch.clone(), seq: 0 };
        Ok(proto::CreateTokenResponse {
            token: created.token.expose(),
            session: Some(codec::session(&created.session)),
            position: Some(codec::wire_position(&start)),
        })
    }

    async fn refresh(
        &self,
        caller: &Caller,
        token: &Token,
        request: &proto::RefreshTokenRequest,
        budget: Option<&ConnectionBudget>,
    ) -> Result<(proto::RefreshTokenResponse, Option<ResponsePermit>)> {
        let (after, limit) = (request.after, request.limit);
        let _page = OptionFuture::from(budget.map(ConnectionBudget::page)).await.transpose()?;
        let snapshot = self.context.gateway.refresh_token(caller, token, after, limit).await?;
        let permit = budget.map(|budget| budget.reserve(page_size(&snapshot))).transpose()?;
        Ok((codec::snapshot(&snapshot, after), permit))
    }

    async fn send(
        &self,
        caller: &Caller,
        token: &Token,
        request: proto::SendMessageRequest,
    ) -> Result<proto::SendMessageResponse> {
        let message = NewMessage::new(request.text, request.client_message_id.as_deref());
        let accepted = self.context.gateway.send(caller, token, message).await?;
        Ok(proto::SendMessageResponse { accepted: Some(codec::accepted(&accepted)) })
    }

    async fn watch(
        &self,
        caller: Caller,
        token: &Token,
        at: Option<proto::Position>,
    ) -> Result<ResponseStream> {
        let at = at.map(codec::position).transpose()?;
        let (subscription, opened) =
            self.context.gateway.attach(&caller, token, at.as_ref()).await?;
        let record = StreamRecord::new(Protocol::Grpc, "subscribe");
        let stream = ClientStream::attached(&self.context, caller, record, subscription, opened);
        Ok(StreamingCall { context: self.context.clone(), stream, requests: ListenOnly }
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
        let caller = ConnectionContext::caller(request.extensions());
        answer(self.create(&caller, &request.get_ref().name).await)
    }

    async fn refresh_token(
        &self,
        request: Request<proto::RefreshTokenRequest>,
    ) -> Result<Response<proto::RefreshTokenResponse>, Status> {
        let token = required_token(request.metadata(), &request.get_ref().token)?;
        let caller = ConnectionContext::caller(request.extensions());
        let budget = ConnectionContext::budget(request.extensions());
        let refreshed = self.refresh(&caller, &token, request.get_ref(), budget).await;
        let (page, permit) = refreshed.map_err(|error| failure::refuse(&error))?;
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
        let caller = ConnectionContext::caller(request.extensions());
        let revoked = self.context.gateway.revoke_token(&caller, &token).await;
        answer(revoked.map(|()| proto::RevokeTokenResponse {}))
    }

    async fn send_message(
        &self,
        request: Request<proto::SendMessageRequest>,
    ) -> Result<Response<proto::SendMessageResponse>, Status> {
        let token = required_token(request.metadata(), &request.get_ref().token)?;
        let caller = ConnectionContext::caller(request.extensions());
        answer(self.send(&caller, &token, request.into_inner()).await)
    }

    async fn stop_reply(
        &self,
        request: Request<proto::StopReplyRequest>,
    ) -> Result<Response<proto::StopReplyResponse>, Status> {
        let token = required_token(request.metadata(), &request.get_ref().token)?;
        let caller = ConnectionContext::caller(request.extensions());
        let stopped = self.context.gateway.stop(&caller, &token).await;
        answer(stopped.map(|stopped| proto::StopReplyResponse { stopped }))
    }

    async fn subscribe(
        &self,
        request: Request<proto::SubscribeRequest>,
    ) -> Result<Response<ResponseStream>, Status> {
        let token = required_token(request.metadata(), &request.get_ref().token)?;
        let caller = ConnectionContext::caller(request.extensions());
        answer(self.watch(caller, &token, request.into_inner().position).await)
    }

    async fn chat(
        &self,
        request: Request<Streaming<proto::ChatRequest>>,
    ) -> Result<Response<ResponseStream>, Status> {
        let credential = token(request.metadata(), "").map_err(|error| failure::refuse(&error))?;
        let caller = ConnectionContext::caller(request.extensions());
        let record = StreamRecord::new(Protocol::Grpc, "chat");
        let stream = ClientStream::new(&self.context, caller, record, credential);
        let requests = Requests(request.into_inner());
        answer(Ok(StreamingCall { context: self.context.clone(), stream, requests }.responses()))
    }
}

fn answer<T>(result: Result<T>) -> Result<Response<T>, Status> {
    result.map(Response::new).map_err(|error| failure::refuse(&error))
}

fn token(metadata: &MetadataMap, field: &str) -> Result<Option<Token>> {
    let field = Some(field).filter(|field| !field.is_empty());
    auth::one_of([auth::bearer(metadata.as_ref()), field])
}

fn required_token(metadata: &MetadataMap, field: &str) -> Result<Token, Status> {
    let token = token(metadata, field)
        .and_then(|token| token.ok_or_else(|| ErrorKind::MissingToken.into()));
    token.map_err(|error: Error| failure::refuse(&error))
}

/// The requests of a `Chat` call.
struct Requests(Streaming<proto::ChatRequest>);

impl InboundSource for Requests {
    fn poll_inbound(&mut self, cx: &mut Context<'_>) -> Poll<Inbound> {
        self.0.poll_next_unpin(cx).map(|request| match request {
            Some(Ok(request)) => {
                codec::client_request(request).map_or_else(Inbound::Refused, Inbound::Request)
            }
            None => Inbound::HalfClosed,
            Some(Err(status)) => Inbound::Gone(undecodable(&status)),
        })
    }
}

/// Returns the failure that tonic's decoder reports. `None` if the client disconnected.
fn undecodable(status: &Status) -> Option<Error> {
    match status.code() {
        Code::OutOfRange => Some(ErrorKind::FrameTooLarge.into()),
        Code::Internal | Code::Unimplemented => {
            Some(Error::new(ErrorKind::BadFrame, "A request message could not be decoded"))
        }
        _ => None,
    }
}

/// A call that streams responses.
struct StreamingCall<R> {
    context: TransportContext,
    stream: ClientStream,
    requests: R,
}

impl<R: InboundSource + Send + 'static> StreamingCall<R> {
    /// Returns the responses. The HTTP/2 connection polls them only while its peer has room: a
    /// reader that stalls delays only itself.
    fn responses(self) -> ResponseStream {
        let items = stream::unfold(Some(self), |call| async {
            let mut call = call?;
            let outbound = call.stream.next(&mut call.requests).await;
            let items = call.items(&outbound);
            let is_over = matches!(outbound, Outbound::End(_));
            Some((stream::iter(items), (!is_over).then_some(call)))
        });
        items.flatten().boxed()
    }

    /// Encodes an item: a response, a status, or both.
    fn items(&self, outbound: &Outbound) -> Vec<std::result::Result<proto::ChatResponse, Status>> {
        let limits = self.context.gateway.settings();
        let response = codec::response(outbound, limits, self.context.settings.heartbeat);
        let mut items: Vec<_> = response.into_iter().map(Ok).collect();
        if let Outbound::End(Err(error)) = outbound {
            // The stream has counted it.
            items.push(Err(failure::status(error)));
        }
        items
    }
}
