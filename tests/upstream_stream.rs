//! The streamed response of a model, byte by byte.

use duologue::responder::openai::UpstreamSettings;

use crate::support::{
    piece_of, proto,
    upstream::{CHUNKED, DONE, HEAD, answer, delta, finish, usage},
};
use crate::upstream::{Conversation, failure};

#[tokio::test]
async fn text_is_the_same_wherever_its_bytes_are_cut_and_however_lines_end() {
    let text = "é日🦀\n\"x\"";
    for end in ["\n", "\r\n", "\r"] {
        let data = answer(text).replace('\n', end);
        let body = format!(": hello{end}{end}{data}");
        let mut talk = Conversation::start().await;
        for at in 0..=body.len() {
            talk.client.say("Hi", None).await.unwrap();
            let mut asked = talk.upstream.asked().await;
            let (one, two) = body.as_bytes().split_at(at);
            asked.write(HEAD).await;
            asked.write(one).await;
            // Let the first part travel by itself.
            for _ in 0..10 {
                tokio::task::yield_now().await;
            }
            asked.write(two).await;
            drop(asked);
            let reply = talk.client.reply().await.1;
            assert_eq!((reply.text.as_str(), failure(&reply)), (text, ""), "{end:?} cut at {at}");
        }
    }
}

#[tokio::test]
async fn what_the_standard_of_events_allows_is_understood() {
    let mut talk = Conversation::start().await;
    let no_space = answer("a").replace("data: ", "data:");
    let multi_line = "data: {\"choices\":[{\"delta\":\ndata: {\"content\":\"a\"},\ndata: \"finish_reason\":\"stop\"}]}\n\n";
    let other_fields = format!("id: 1\nretry: 5\nevent: message\n{}", answer("a"));
    for body in [no_space, multi_line.into(), other_fields] {
        let reply = talk.hear(format!("{HEAD}{body}")).await;
        assert_eq!((reply.text.as_str(), failure(&reply)), ("a", ""), "{body}");
    }
}

#[tokio::test]
async fn usage_is_exact_if_the_upstream_reports_it() {
    let mut talk = Conversation::start().await;
    for told in [
        format!("{}{}{DONE}", finish("stop"), usage(31, 7)),
        // In the last piece, or in each, growing.
        format!("{}{}{}{DONE}", usage(31, 1), finish("stop"), usage(31, 7)),
    ] {
        let reply = talk.hear(format!("{HEAD}{}{told}", delta("a"))).await;
        let exact = proto::Usage { input_tokens: 31, output_tokens: 7, ..Default::default() };
        assert_eq!(reply.usage, Some(exact));
    }
}

#[tokio::test]
async fn a_line_that_never_ends_is_cut_off() {
    let mut talk = Conversation::start().await;
    talk.client.say("Hi", None).await.unwrap();
    let mut asked = talk.upstream.asked().await;
    asked.write(format!("{HEAD}{}data: ", delta("a"))).await;
    let reply = tokio::select! {
        (_, reply) = talk.client.reply() => reply,
        () = asked.flood(&[b'x'; 1 << 16]) => unreachable!("it floods for ever"),
    };
    assert_eq!((reply.text.as_str(), failure(&reply)), ("a", "upstream_protocol"));
    asked.let_go().await;
}

#[tokio::test]
async fn a_reset_at_any_moment_ends_the_reply() {
    let mut talk = Conversation::start().await;
    for (bytes, code, text) in [
        (String::new(), "upstream_unavailable", ""),
        ("HTTP/1.1 200 OK\r\ncontent-ty".into(), "upstream_unavailable", ""),
        (CHUNKED.into(), "upstream_truncated", ""),
        (format!("{CHUNKED}3\r\n: x"), "upstream_truncated", ""),
    ] {
        talk.client.say("Hi", None).await.unwrap();
        let mut asked = talk.upstream.asked().await;
        asked.write(&bytes).await;
        asked.reset();
        let reply = talk.client.reply().await.1;
        assert_eq!((failure(&reply), reply.text.as_str()), (code, text), "{bytes}");
    }
    // After text, once it has been seen: a reset may overtake what was sent before.
    let (more, end) = (delta("a"), finish("stop"));
    for (chunk, code) in [
        (more.clone(), "upstream_truncated"),
        (format!("{more}{end}"), ""),
        (format!("{end}{more}"), "upstream_truncated"),
    ] {
        talk.client.say("Hi", None).await.unwrap();
        let mut asked = talk.upstream.asked().await;
        asked.write(CHUNKED).await;
        asked.chunk(&chunk).await;
        assert_eq!(piece_of(&talk.client.delta().await), "a");
        asked.reset();
        let reply = talk.client.reply().await.1;
        assert_eq!((failure(&reply), reply.text.as_str()), (code, "a"));
    }
}

#[tokio::test]
async fn a_missing_finish_reason_is_accepted_if_configured() {
    let accept = |one: &mut UpstreamSettings| one.defaults.accept_missing_finish_reason = true;
    for (body, code) in [
        (format!("{}{DONE}", delta("a")), ""),
        (delta("a"), "upstream_truncated"),
        (DONE.into(), "upstream_truncated"),
    ] {
        let reply = Conversation::with(accept).await.hear(format!("{HEAD}{body}")).await;
        assert_eq!((failure(&reply), reply.finish_reason.as_deref()), (code, None), "{body}");
    }
}
