//! The calls on one session: converts the requests, calls the core, converts the results.

use futures_util::future::OptionFuture;

use super::{
    chat::{Call, ChatRpc},
    streaming_call::{ResponseStream, StreamingCall},
};
use crate::{
    proto,
    session::{
        Created, Error, ErrorKind, NewToken, PageRequest, Position, Result, Revocation, Scope,
        SessionId, Token, TokenId,
    },
    transport::{
        ConnectionBudget, ConnectionContext, ResponsePermit, codec, page_size,
        stream::{ClientStream, ListenOnly, Protocol, StreamRecord},
    },
};

impl ChatRpc {
    pub(super) async fn create(
        &self,
        call: Call<proto::CreateTokenRequest>,
    ) -> Result<proto::CreateTokenResponse> {
        let Call { caller, request, .. } = call;
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
        let created = match session_token {
            None => gateway.create_token(&caller, new).await?,
            Some(token) => gateway.issue_token(&caller, &Token::parse(&token)?, new).await?,
        };
        let (token, session, position) = created_fields(&created);
        Ok(proto::CreateTokenResponse { token, session, position })
    }

    pub(super) async fn refresh(
        &self,
        call: Call<proto::RefreshTokenRequest>,
    ) -> Result<(proto::RefreshTokenResponse, Option<ResponsePermit>)> {
        let budget = ConnectionContext::budget(&call.extensions);
        let proto::RefreshTokenRequest { after, before, limit, .. } = call.request;
        let page = PageRequest { after, before, limit };
        let _page = OptionFuture::from(budget.map(ConnectionBudget::page)).await.transpose()?;
        let gateway = &self.context.gateway;
        let snapshot = gateway.refresh_token(&call.caller, call.token()?, page).await?;
        let permit = budget.map(|budget| budget.reserve(page_size(&snapshot))).transpose()?;
        let shows_data = gateway.settings().show_provider_data;
        let shows_data = shows_data && call.request.include_provider_data;
        Ok((codec::snapshot(&snapshot, shows_data), permit))
    }

    pub(super) async fn revoke(
        &self,
        call: Call<proto::RevokeTokenRequest>,
    ) -> Result<proto::RevokeTokenResponse> {
        let gateway = &self.context.gateway;
        let Call { caller, request, .. } = &call;
        match (&request.token_id, &request.session_id) {
            (Some(id), session) => {
                let token = token_id(id)?;
                let session = match (session, &call.token) {
                    (Some(session), None) => session_id(session)?,
                    (None, Some(token)) => gateway.authenticate(caller, token).await?.session.id,
                    (None, None) => return Err(missing("session_id")),
                    (Some(_), Some(_)) => return Err(excess("session_id and a token")),
                };
                gateway.revoke_token_by_owner(caller, session, token).await?;
            }
            (None, Some(_)) => return Err(missing("token_id")),
            (None, None) => {
                let extent =
                    if request.token_only { Revocation::Token } else { Revocation::Session };
                gateway.revoke_token(caller, call.token()?, extent).await?;
            }
        }
        Ok(proto::RevokeTokenResponse {})
    }

    pub(super) async fn send(
        &self,
        mut call: Call<proto::SendMessageRequest>,
    ) -> Result<proto::SendMessageResponse> {
        let send = call.request.send.take().ok_or_else(|| missing("send"))?;
        let message = codec::new_message(send)?;
        let accepted = self.context.gateway.send(&call.caller, call.token()?, message).await?;
        Ok(proto::SendMessageResponse { accepted: Some(codec::accepted(&accepted)) })
    }

    pub(super) async fn ask_again(
        &self,
        mut call: Call<proto::RegenerateRequest>,
    ) -> Result<proto::RegenerateResponse> {
        let again = call.request.regenerate.take().ok_or_else(|| missing("regenerate"))?;
        let again = codec::regeneration(again);
        let accepted = self.context.gateway.regenerate(&call.caller, call.token()?, again).await?;
        Ok(proto::RegenerateResponse { accepted: Some(codec::accepted(&accepted)) })
    }

    pub(super) async fn stop(
        &self,
        call: Call<proto::StopReplyRequest>,
    ) -> Result<proto::StopReplyResponse> {
        let seq = call.request.stop.and_then(|stop| stop.seq);
        let stopped = self.context.gateway.stop(&call.caller, call.token()?, seq).await?;
        Ok(proto::StopReplyResponse { stopped })
    }

    pub(super) async fn watch(
        &self,
        mut call: Call<proto::SubscribeRequest>,
    ) -> Result<ResponseStream> {
        let token = call.token()?.clone();
        let at = call.request.position.take().map(codec::position).transpose()?;
        let Call { caller, .. } = call;
        let (subscription, opened) =
            self.context.gateway.attach(&caller, &token, at.as_ref()).await?;
        let record = StreamRecord::new(Protocol::Grpc, "subscribe");
        let stream = ClientStream::attached(&self.context, caller, record, subscription, opened);
        let (context, requests) = (self.context.clone(), ListenOnly);
        Ok(StreamingCall { context, stream, requests }.responses())
    }
}

/// Returns the fields of a response with a new token.
pub(super) fn created_fields(
    created: &Created,
) -> (String, Option<proto::Session>, Option<proto::Position>) {
    let Created { token, session, head_seq } = created;
    let position = Position::new(session.epoch.clone(), *head_seq);
    (token.expose(), Some(codec::session(session)), Some(codec::wire_position(&position)))
}

pub(super) fn session_id(text: &str) -> Result<SessionId> {
    if text.is_empty() {
        return Err(missing("session_id"));
    }
    // An id of another form is the id of no session.
    text.parse().map_err(|_| ErrorKind::NotFound.into())
}

fn token_id(text: &str) -> Result<TokenId> {
    text.parse().map_err(|_| ErrorKind::NotFound.into())
}

fn missing(field: &str) -> Error {
    Error::new(ErrorKind::InvalidArgument, format!("The field {field} is missing"))
}

fn excess(fields: &str) -> Error {
    Error::new(ErrorKind::InvalidArgument, format!("{fields} exclude each other"))
}
