//! The service `duologue.v1.ChatService`.

use std::task::{Context, Poll};

use futures_util::{StreamExt as _, future::OptionFuture, stream, stream::BoxStream};
use tonic::{Code, Request, Response, Status, Streaming, metadata::MetadataMap};

use super::failure;
use crate::{
    proto::{self, chat_service_server::ChatService, frame::EncodedFrame},
    session::{
        Caller, Created, Error, ErrorKind, NewToken, PageRequest, Position, Result, Revocation,
        Scope, Token,
    },
    transport::{
        ConnectionBudget, ConnectionContext, ResponsePermit, TransportContext, auth,
        codec::{self, Form},
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

type ResponseStream = BoxStream<'static, Frame>;

/// A frame of a stream, or its end.
type Frame = std::result::Result<EncodedFrame, Status>;

impl ChatRpc {
    pub(super) const fn new(context: TransportContext) -> Self {
        Self { context }
    }

    async fn create(
        &self,
        caller: &Caller,
        request: proto::CreateTokenRequest,
    ) -> Result<proto::CreateTokenResponse> {
        let proto::CreateTokenRequest { name, metadata, session_token, title, scope, .. } = request;
        let new = NewToken {
            name: &name,
            metadata: codec::new_metadata(metadata),
            title: title.as_deref(),
            scope: scope.as_deref().map(Scope::parse).transpose()?,
            label: request.label.as_deref(),
            subject: request.subject.as_deref(),
        };
        let gateway = &self.context.gateway;
        let Created { token, session, head_seq } = match session_token {
            None => gateway.create_token(caller, new).await?,
            Some(token) => gateway.issue_token(caller, &Token::parse(&token)?, new).await?,
        };
        let position = Position::new(session.epoch.clone(), head_seq);
        Ok(proto::CreateTokenResponse {
            token: token.expose(),
            session: Some(codec::session(&session)),
            position: Some(codec::wire_position(&position)),
        })
    }

    async fn refresh(
        &self,
        caller: &Caller,
        token: &Token,
        request: &proto::RefreshTokenRequest,
        budget: Option<&ConnectionBudget>,
    ) -> Result<(proto::RefreshTokenResponse, Option<ResponsePermit>)> {
        let proto::RefreshTokenRequest { after, before, limit, .. } = *request;
        let page = PageRequest { after, before, limit };
        let _page = OptionFuture::from(budget.map(ConnectionBudget::page)).await.transpose()?;
        let gateway = &self.context.gateway;
        let snapshot = gateway.refresh_token(caller, token, page).await?;
        let permit = budget.map(|budget| budget.reserve(page_size(&snapshot))).transpose()?;
        let shows_data = request.include_provider_data && gateway.settings().show_provider_data;
        Ok((codec::snapshot(&snapshot, shows_data), permit))
    }

    async fn revoke(
        &self,
        caller: &Caller,
        token: &Token,
        request: &proto::RevokeTokenRequest,
    ) -> Result<proto::RevokeTokenResponse> {
        if request.token_id.is_some() {
            let message = "token_id requires a credential";
            return Err(Error::new(ErrorKind::Unauthenticated, message));
        }
        let extent = if request.token_only { Revocation::Token } else { Revocation::Session };
        self.context.gateway.revoke_token(caller, token, extent).await?;
        Ok(proto::RevokeTokenResponse {})
    }

    async fn send(
        &self,
        caller: &Caller,
        token: &Token,
        send: Option<proto::Send>,
    ) -> Result<proto::SendMessageResponse> {
        let message = codec::new_message(send.ok_or_else(|| missing("send"))?)?;
        let accepted = self.context.gateway.send(caller, token, message).await?;
        Ok(proto::SendMessageResponse { accepted: Some(codec::accepted(&accepted)) })
    }

    async fn ask_again(
        &self,
        caller: &Caller,
        token: &Token,
        again: Option<proto::Regenerate>,
    ) -> Result<proto::RegenerateResponse> {
        let again = codec::regeneration(again.ok_or_else(|| missing("regenerate"))?);
        let accepted = self.context.gateway.regenerate(caller, token, again).await?;
        Ok(proto::RegenerateResponse { accepted: Some(codec::accepted(&accepted)) })
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
        answer(self.create(&caller, request.into_inner()).await)
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
        answer(self.revoke(&caller, &token, request.get_ref()).await)
    }

    async fn send_message(
        &self,
        request: Request<proto::SendMessageRequest>,
    ) -> Result<Response<proto::SendMessageResponse>, Status> {
        let token = required_token(request.metadata(), &request.get_ref().token)?;
        let caller = ConnectionContext::caller(request.extensions());
        answer(self.send(&caller, &token, request.into_inner().send).await)
    }

    async fn regenerate(
        &self,
        request: Request<proto::RegenerateRequest>,
    ) -> Result<Response<proto::RegenerateResponse>, Status> {
        let token = required_token(request.metadata(), &request.get_ref().token)?;
        let caller = ConnectionContext::caller(request.extensions());
        answer(self.ask_again(&caller, &token, request.into_inner().regenerate).await)
    }

    async fn stop_reply(
        &self,
        request: Request<proto::StopReplyRequest>,
    ) -> Result<Response<proto::StopReplyResponse>, Status> {
        let token = required_token(request.metadata(), &request.get_ref().token)?;
        let caller = ConnectionContext::caller(request.extensions());
        let seq = request.into_inner().stop.and_then(|stop| stop.seq);
        let stopped = self.context.gateway.stop(&caller, &token, seq).await;
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

fn missing(field: &str) -> Error {
    Error::new(ErrorKind::InvalidArgument, format!("The field {field} is missing"))
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
        // Boxed, since each item moves it.
        let items = stream::unfold(Some(Box::new(self)), |call| async {
            let mut call = call?;
            let outbound = call.stream.next(&mut call.requests).await;
            let items = call.items(&outbound);
            let is_over = matches!(outbound, Outbound::End(_));
            Some((stream::iter(items.into_iter().flatten()), (!is_over).then_some(call)))
        });
        items.flatten().boxed()
    }

    /// Encodes an item: a response, a status, or both.
    fn items(&self, outbound: &Outbound) -> [Option<Frame>; 2] {
        let limits = self.context.gateway.settings();
        let frame = Form::Proto.encoded(outbound, limits, self.context.settings.heartbeat);
        let frame = frame.map_err(|error| failure::status(&error)).transpose();
        let frame = frame.map(|frame| frame.map(EncodedFrame));
        let status = match outbound {
            // The stream has counted it.
            Outbound::End(Err(error)) => Some(Err(failure::status(error))),
            _ => None,
        };
        [frame, status]
    }
}
