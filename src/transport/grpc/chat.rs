//! The service `duologue.v1.ChatService`.

use http::Extensions;
use tonic::{Request, Response, Status, Streaming};

use super::{
    failure,
    streaming_call::{Requests, ResponseStream, StreamingCall},
};
use crate::{
    proto::{self, chat_service_server::ChatService},
    session::{Caller, ErrorKind, Result, Token},
    transport::{
        TransportContext,
        auth::Secrets,
        stream::{ClientStream, Protocol, StreamRecord},
    },
};

#[derive(Debug)]
pub(super) struct ChatRpc {
    pub(super) context: TransportContext,
}

/// A call whose caller is identified.
pub(super) struct Call<T> {
    pub(super) caller: Caller,
    pub(super) token: Option<Token>,
    pub(super) extensions: Extensions,
    pub(super) request: T,
}

impl<T> Call<T> {
    /// Returns the token.
    pub(super) fn token(&self) -> Result<&Token> {
        self.token.as_ref().ok_or_else(|| ErrorKind::MissingToken.into())
    }
}

impl ChatRpc {
    pub(super) const fn new(context: TransportContext) -> Self {
        Self { context }
    }

    /// Identifies the caller of an operation that needs no token.
    async fn identified<T>(&self, request: Request<T>) -> Result<Call<T>> {
        let (metadata, extensions, request) = request.into_parts();
        let secrets = Secrets::of_caller(metadata.as_ref());
        let caller = secrets.caller(&self.context, &extensions).await?;
        Ok(Call { caller, token: None, extensions, request })
    }

    /// Identifies the caller, and reads the token. The request may have it in a field.
    async fn call<T>(&self, request: Request<T>, token: fn(&T) -> &str) -> Result<Call<T>> {
        let (metadata, extensions, request) = request.into_parts();
        let field = Some(token(&request)).filter(|field| !field.is_empty());
        let secrets = Secrets::of(metadata.as_ref(), [field])?;
        let caller = secrets.caller(&self.context, &extensions).await?;
        Ok(Call { caller, token: secrets.token, extensions, request })
    }

    async fn open_chat(
        &self,
        request: Request<Streaming<proto::ChatRequest>>,
    ) -> Result<ResponseStream> {
        let Call { caller, token, request, .. } = self.call(request, |_| "").await?;
        let record = StreamRecord::new(Protocol::Grpc, "chat");
        let stream = ClientStream::new(&self.context, caller, record, token);
        let (context, requests) = (self.context.clone(), Requests(request));
        Ok(StreamingCall { context, stream, requests }.responses())
    }
}

fn answer<T>(result: Result<T>) -> Result<Response<T>, Status> {
    result.map(Response::new).map_err(|error| failure::refuse(&error))
}

#[tonic::async_trait]
impl ChatService for ChatRpc {
    type ChatStream = ResponseStream;
    type SubscribeStream = ResponseStream;

    async fn create_token(
        &self,
        request: Request<proto::CreateTokenRequest>,
    ) -> Result<Response<proto::CreateTokenResponse>, Status> {
        answer(async { self.create(self.identified(request).await?).await }.await)
    }

    async fn refresh_token(
        &self,
        request: Request<proto::RefreshTokenRequest>,
    ) -> Result<Response<proto::RefreshTokenResponse>, Status> {
        let refresh =
            async { self.refresh(self.call(request, |request| &request.token).await?).await };
        let (page, permit) = refresh.await.map_err(|error| failure::refuse(&error))?;
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
        let call = self.call(request, |request| &request.token);
        answer(async { self.revoke(call.await?).await }.await)
    }

    async fn send_message(
        &self,
        request: Request<proto::SendMessageRequest>,
    ) -> Result<Response<proto::SendMessageResponse>, Status> {
        let call = self.call(request, |request| &request.token);
        answer(async { self.send(call.await?).await }.await)
    }

    async fn regenerate(
        &self,
        request: Request<proto::RegenerateRequest>,
    ) -> Result<Response<proto::RegenerateResponse>, Status> {
        let call = self.call(request, |request| &request.token);
        answer(async { self.ask_again(call.await?).await }.await)
    }

    async fn stop_reply(
        &self,
        request: Request<proto::StopReplyRequest>,
    ) -> Result<Response<proto::StopReplyResponse>, Status> {
        let call = self.call(request, |request| &request.token);
        answer(async { self.stop(call.await?).await }.await)
    }

    async fn subscribe(
        &self,
        request: Request<proto::SubscribeRequest>,
    ) -> Result<Response<ResponseStream>, Status> {
        let call = self.call(request, |request| &request.token);
        answer(async { self.watch(call.await?).await }.await)
    }

    async fn chat(
        &self,
        request: Request<Streaming<proto::ChatRequest>>,
    ) -> Result<Response<ResponseStream>, Status> {
        answer(self.open_chat(request).await)
    }

    async fn list_sessions(
        &self,
        request: Request<proto::ListSessionsRequest>,
    ) -> Result<Response<proto::ListSessionsResponse>, Status> {
        answer(async { self.list(self.identified(request).await?).await }.await)
    }

    async fn issue_token(
        &self,
        request: Request<proto::IssueTokenRequest>,
    ) -> Result<Response<proto::IssueTokenResponse>, Status> {
        answer(async { self.issue(self.identified(request).await?).await }.await)
    }

    async fn list_tokens(
        &self,
        request: Request<proto::ListTokensRequest>,
    ) -> Result<Response<proto::ListTokensResponse>, Status> {
        answer(async { self.tokens(self.identified(request).await?).await }.await)
    }

    async fn update_session(
        &self,
        request: Request<proto::UpdateSessionRequest>,
    ) -> Result<Response<proto::UpdateSessionResponse>, Status> {
        answer(async { self.update(self.identified(request).await?).await }.await)
    }

    async fn delete_session(
        &self,
        request: Request<proto::DeleteSessionRequest>,
    ) -> Result<Response<proto::DeleteSessionResponse>, Status> {
        answer(async { self.delete(self.identified(request).await?).await }.await)
    }
}
