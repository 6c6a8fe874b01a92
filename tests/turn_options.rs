//! Options of a turn: checked, stored with the message, and shown to the responder alone.

use duologue::session::TurnOption;

use crate::support::{Setup, Transport, create, model::*, proto};

fn options() -> proto::TurnOptions {
    proto::TurnOptions {
        instructions: Some("Answer in one word.".into()),
        tools: vec![proto::Tool {
            name: "weather".into(),
            description: Some("The weather of a city".into()),
            parameters: Some("{\"type\":\"object\"}".into()),
        }],
        tool_choice: Some("weather".into()),
        max_output_tokens: Some(10),
        temperature: Some(0.5),
        ..Default::default()
    }
}

fn send(options: proto::TurnOptions) -> proto::Send {
    proto::Send { text: "go".into(), options: Some(options), ..Default::default() }
}

#[tokio::test]
async fn the_responder_gets_the_options_and_another_attempt_asks_the_same() {
    for transport in Transport::ALL {
        let model = TestModel::new([]);
        let server = Setup::answering(model.clone()).start().await;
        let token = create(&server).await;
        let mut client = transport.open(&server, &token, None).await;
        client.send(send(options())).await.unwrap();
        client.reply().await;
        let got = model.last_prompt().options().map(proto::TurnOptions::from);
        assert_eq!(got, Some(options()), "{transport:?}");
        // Asked again: the same options, unless they are replaced.
        client.regenerate(Default::default()).await.unwrap();
        client.reply().await;
        let got = model.last_prompt().options().map(proto::TurnOptions::from);
        assert_eq!(got, Some(options()), "{transport:?}");
        let other = proto::TurnOptions { temperature: Some(1.0), ..Default::default() };
        let again = proto::Regenerate { options: Some(other.clone()), ..Default::default() };
        client.regenerate(again).await.unwrap();
        client.reply().await;
        let got = model.last_prompt().options().map(proto::TurnOptions::from);
        assert_eq!(got, Some(other), "{transport:?}");
    }
}

#[tokio::test]
async fn options_that_are_wrong_or_not_allowed_are_refused() {
    let mut setup = Setup::default();
    setup.session.messages.options = vec![TurnOption::Tools, TurnOption::Temperature];
    let server = setup.start().await;
    for transport in Transport::ALL {
        let token = create(&server).await;
        let mut client = transport.open(&server, &token, None).await;
        let invalid = if transport == Transport::Sse { "400" } else { "invalid_argument" };
        let none = proto::TurnOptions::default;
        for (options, named) in [
            (proto::TurnOptions { model: Some("large".into()), ..none() }, "model"),
            (proto::TurnOptions { instructions: Some("x".into()), ..none() }, "instructions"),
            (proto::TurnOptions { extra: Some("{}".into()), ..none() }, "extra"),
            (proto::TurnOptions { tool_choice: Some("weather".into()), ..none() }, "tool_choice"),
            (proto::TurnOptions { temperature: Some(9.0), ..none() }, "temperature"),
        ] {
            let refused = client.send(send(options)).await.unwrap_err();
            assert_eq!(refused.code, invalid, "{transport:?} {named}");
            assert!(refused.message.contains(named), "{transport:?}: {}", refused.message);
        }
        client.send(send(proto::TurnOptions { temperature: Some(0.0), ..none() })).await.unwrap();
        client.reply().await;
    }
}

#[tokio::test]
async fn a_retry_with_other_options_is_the_same_turn() {
    let server = Setup::default().start().await;
    for transport in Transport::ALL {
        let token = create(&server).await;
        let mut client = transport.open(&server, &token, None).await;
        let first = proto::Send { client_message_id: Some("m".into()), ..send(options()) };
        let seq = client.send(first.clone()).await.unwrap().seq;
        client.reply().await;
        let again = client.send(proto::Send { options: None, ..first }).await.unwrap();
        assert!(again.duplicate && again.seq == seq, "{transport:?}");
    }
}
