//! Several tokens of one session: scopes, and the end of one or all of them.

use crate::support::{Rest, Setup, Transport, create, proto, soon, stub};

async fn issue(
    server: &crate::support::Address,
    token: &str,
    scope: Option<&str>,
) -> Result<String, tonic::Status> {
    let request = proto::CreateTokenRequest {
        session_token: Some(token.into()),
        scope: scope.map(Into::into),
        label: Some("phone".into()),
        ..Default::default()
    };
    Ok(stub(server).await.create_token(request).await?.into_inner().token)
}

#[tokio::test]
async fn another_token_opens_the_same_session() {
    let server = Setup::default().start().await;
    for transport in Transport::ALL {
        let token = create(&server).await;
        let other = issue(&server, &token, None).await.unwrap();
        assert_ne!(token, other);
        let mut one = transport.open(&server, &token, None).await;
        let mut two = transport.open(&server, &other, None).await;
        let session = |opened: &proto::Opened| opened.session.clone().unwrap().id;
        assert_eq!(session(&one.opened), session(&two.opened));
        two.say("hello", None).await.unwrap();
        assert_eq!(one.reply().await.1.text, two.reply().await.1.text, "{transport:?}");
    }
}

#[tokio::test]
async fn a_token_to_read_can_watch_and_nothing_else() {
    let server = Setup::default().start().await;
    for transport in Transport::ALL {
        let token = create(&server).await;
        let reader = issue(&server, &token, Some("read")).await.unwrap();
        let mut watching = transport.open(&server, &reader, None).await;
        let mut writing = transport.open(&server, &token, None).await;
        let forbidden = if transport == Transport::Sse { "403" } else { "forbidden" };
        assert_eq!(watching.say("no", None).await.unwrap_err().code, forbidden, "{transport:?}");
        let again = watching.regenerate(Default::default()).await.unwrap_err();
        assert_eq!(again.code, forbidden, "{transport:?}");
        writing.say("hello", None).await.unwrap();
        assert_eq!(watching.reply().await.1.text, "Echo: hello", "{transport:?}");

        let mut grpc = stub(&server).await;
        let denied = tonic::Code::PermissionDenied;
        assert_eq!(issue(&server, &reader, None).await.unwrap_err().code(), denied);
        let stop = proto::StopReplyRequest { token: reader.clone(), stop: None };
        assert_eq!(grpc.stop_reply(stop).await.unwrap_err().code(), denied);
        let revoke = proto::RevokeTokenRequest { token: reader.clone(), ..Default::default() };
        assert_eq!(grpc.revoke_token(revoke).await.unwrap_err().code(), denied);
        let refresh = proto::RefreshTokenRequest { token: reader.clone(), ..Default::default() };
        assert_eq!(grpc.refresh_token(refresh).await.unwrap().into_inner().messages.len(), 2);
        let own =
            proto::RevokeTokenRequest { token: reader, token_only: true, ..Default::default() };
        grpc.revoke_token(own).await.unwrap();
        soon("the end", watching.ended()).await;
        writing.say("still here", None).await.unwrap();
    }
}

#[tokio::test]
async fn a_revoked_token_ends_its_streams_alone_and_the_last_one_the_session() {
    let server = Setup::default().start().await;
    for transport in Transport::ALL {
        let token = create(&server).await;
        let other = issue(&server, &token, None).await.unwrap();
        let one = transport.open(&server, &token, None).await;
        let mut two = transport.open(&server, &other, None).await;
        let only = |token: &str| proto::RevokeTokenRequest {
            token: token.into(),
            token_only: true,
            ..Default::default()
        };
        let mut grpc = stub(&server).await;
        grpc.revoke_token(only(&token)).await.unwrap();
        let (code, _) = soon("the end", one.ended()).await;
        assert_eq!(code.as_deref(), Some("session_revoked"), "{transport:?}");
        let unknown = grpc.revoke_token(only(&token)).await.unwrap_err();
        assert_eq!(unknown.code(), tonic::Code::Unauthenticated);
        two.say("still here", None).await.unwrap();
        two.reply().await;
        grpc.revoke_token(only(&other)).await.unwrap();
        let (code, _) = soon("the end", two.ended()).await;
        assert_eq!(code.as_deref(), Some("session_revoked"), "{transport:?}");
    }
    assert_eq!(server.gateway.active_sessions(), 0);
}

#[tokio::test]
async fn a_session_has_a_limited_number_of_tokens() {
    let mut setup = Setup::default();
    setup.session.max_session_tokens = 3;
    let server = setup.start().await;
    let token = create(&server).await;
    for _ in 0..2 {
        issue(&server, &token, None).await.unwrap();
    }
    let refused = issue(&server, &token, None).await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::Unavailable);
}

#[tokio::test]
async fn rest_issues_and_revokes_tokens() {
    let server = Setup::default().start().await;
    let token = create(&server).await;
    let path = format!("/token?session_token={token}&scope=read&label=kiosk");
    let answer = Rest::call(&server, "POST", &path).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    let issued: serde_json::Value = serde_json::from_str(&answer.body).unwrap();
    let reader = issued["token"].as_str().unwrap();
    let refused = Rest::call(&server, "POST", &format!("/messages?token={reader}&text=no")).await;
    assert_eq!(refused.status, 403);
    assert_eq!(Rest::call(&server, "DELETE", &format!("/token?token={reader}")).await.status, 403);
    let own = format!("/token?token={reader}&token_only=true");
    assert_eq!(Rest::call(&server, "DELETE", &own).await.status, 204);
    assert_eq!(Rest::call(&server, "DELETE", &own).await.status, 400);
    for (query, status) in
        [("scope=admin", 400), ("name=Ada", 400), ("title=x", 400), ("label=%00", 400)]
    {
        let path = format!("/token?session_token={token}&{query}");
        assert_eq!(Rest::call(&server, "POST", &path).await.status, status, "{query}");
    }
}

#[tokio::test]
async fn a_session_has_a_title_and_metadata() {
    let server = Setup::default().start().await;
    let request = proto::CreateTokenRequest {
        name: "Ada".into(),
        title: Some(" Travel ".into()),
        metadata: [("plan".to_owned(), "free".to_owned())].into(),
        ..Default::default()
    };
    let created = stub(&server).await.create_token(request).await.unwrap().into_inner();
    let session = created.session.unwrap();
    assert_eq!(session.title.as_deref(), Some("Travel"));
    assert_eq!(session.metadata["plan"], "free");
    assert_eq!(session.delete_at, session.ends_at, "in open mode all end together");
    for transport in Transport::ALL {
        let client = transport.open(&server, &created.token, None).await;
        let opened = client.opened.session.clone().unwrap();
        assert_eq!(
            (opened.title, opened.metadata),
            (session.title.clone(), session.metadata.clone())
        );
    }
    let subject = proto::CreateTokenRequest {
        name: "Ada".into(),
        subject: Some("jwt:x#y".into()),
        ..Default::default()
    };
    let refused = stub(&server).await.create_token(subject).await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::PermissionDenied);
}
