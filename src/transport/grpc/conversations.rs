//! The calls of an owner on its sessions.

use super::{
    chat::{Call, ChatRpc},
    operations::{created_fields, session_id},
};
use crate::{
    proto,
    session::{ListRequest, Result, Scope},
    transport::codec,
};

impl ChatRpc {
    pub(super) async fn list(
        &self,
        call: Call<proto::ListSessionsRequest>,
    ) -> Result<proto::ListSessionsResponse> {
        let Call { caller, request, .. } = &call;
        let list = ListRequest {
            subject: request.subject.as_deref(),
            after: request.cursor.as_deref().map(str::parse).transpose()?,
            limit: request.limit,
        };
        let list = self.context.gateway.list_sessions(caller, list).await?;
        Ok(proto::ListSessionsResponse {
            sessions: list.sessions.iter().map(codec::listed_session).collect(),
            next_cursor: list.next.map(|next| next.to_string()),
        })
    }

    pub(super) async fn issue(
        &self,
        call: Call<proto::IssueTokenRequest>,
    ) -> Result<proto::IssueTokenResponse> {
        let Call { caller, request, .. } = &call;
        let id = session_id(&request.session_id)?;
        let scope = request.scope.as_deref().map(Scope::parse).transpose()?;
        let label = request.label.as_deref();
        let created = self.context.gateway.issue_token_by_owner(caller, id, scope, label).await?;
        let (token, session, position) = created_fields(&created);
        Ok(proto::IssueTokenResponse { token, session, position })
    }

    pub(super) async fn tokens(
        &self,
        call: Call<proto::ListTokensRequest>,
    ) -> Result<proto::ListTokensResponse> {
        let id = session_id(&call.request.session_id)?;
        let tokens = self.context.gateway.list_tokens(&call.caller, id).await?;
        Ok(proto::ListTokensResponse { tokens: tokens.iter().map(codec::token_info).collect() })
    }

    pub(super) async fn update(
        &self,
        call: Call<proto::UpdateSessionRequest>,
    ) -> Result<proto::UpdateSessionResponse> {
        let id = session_id(&call.request.session_id)?;
        let title = &call.request.title;
        let session = self.context.gateway.set_title(&call.caller, id, title).await?;
        Ok(proto::UpdateSessionResponse { session: Some(codec::owned_session(&session)) })
    }

    pub(super) async fn delete(
        &self,
        call: Call<proto::DeleteSessionRequest>,
    ) -> Result<proto::DeleteSessionResponse> {
        let id = session_id(&call.request.session_id)?;
        self.context.gateway.delete_session(&call.caller, id).await?;
        Ok(proto::DeleteSessionResponse {})
    }
}
