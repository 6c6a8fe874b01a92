//! The command `check-upstream`: sends requests to the upstreams and reports their behavior.

use std::{
    fmt::Write as _,
    io::{self, Write},
    time::Duration,
};

use tokio::time::{Instant, timeout_at};

use super::{
    chat_message::ChatMessage,
    failure::UpstreamError,
    request::ChatRequest,
    response::{ResponseStream, Step},
    settings::Settings,
    upstream::Upstream,
};
use crate::{
    responder::{Reason, upstream::limiter::Patience},
    session::{Chunk, Piece, estimate_tokens},
};

const SHORT: &str = "Count from one to ten, in words.";
const A_DAY: Duration = Duration::from_secs(24 * 3600);

/// Largest answer in bytes. The numbers from one to ten need less.
const MAX_ANSWER: usize = 1 << 20;

const LONG: &str = "Tell me a very long story, of at least two thousand words.";

/// Sends each upstream four requests: for a short answer, for a long one that it cancels, for a
/// short one again, and an invalid one. Writes its findings line by line. Returns true if all
/// upstreams are usable.
///
/// # Errors
/// The output cannot be written, or, with the kind `InvalidInput`, the settings are wrong.
pub async fn check(settings: &Settings, out: &mut (dyn Write + Send)) -> io::Result<bool> {
    let impossible = |line: String| io::Error::new(io::ErrorKind::InvalidInput, line);
    settings.validate().map_err(impossible)?;
    let mut all = true;
    for one in &settings.upstreams {
        let upstream = Upstream::new(one.clone()).map_err(impossible)?;
        let model = one.model.as_deref().unwrap_or("the server's own");
        writeln!(out, "upstream `{}`: {}, model {model}", one.name, one.endpoint)?;
        let until = Instant::now() + settings.total_timeout;
        let probed = timeout_at(until, probe(&upstream, out)).await;
        let too_late = || UpstreamError::new(Reason::TotalTimeout, "the total timeout has passed");
        let verdict = match probed.unwrap_or_else(|_| Ok(Err(too_late())))? {
            Ok(findings) => findings.verdict(),
            Err(failed) => {
                let cause = failed.in_log(upstream.vocabulary());
                writeln!(out, "  failed         {} ({cause})", failed.reason.code())?;
                Err(advice(failed.reason))
            }
        };
        all &= verdict.is_ok();
        match verdict {
            Ok(verdict) => writeln!(out, "  verdict        {verdict}")?,
            Err(why) => writeln!(out, "  verdict        not usable: {why}")?,
        }
    }
    Ok(all)
}

/// The findings about an upstream that answered.
#[derive(Default)]
struct Findings {
    /// Defects that make replies incomplete.
    doubts: Vec<&'static str>,
    /// A defect that prevents replies.
    defect: Option<&'static str>,
}

impl Findings {
    /// Returns the summary, as an error if the upstream is not usable.
    fn verdict(&self) -> Result<String, &'static str> {
        match self.defect {
            Some(defect) => Err(defect),
            None if self.doubts.is_empty() => Ok("usable".into()),
            None => Ok(format!("usable, but {}", self.doubts.join("; "))),
        }
    }
}

type Probed = io::Result<Result<Findings, UpstreamError>>;

async fn probe(upstream: &Upstream, out: &mut (dyn Write + Send)) -> Probed {
    let mut found = Findings::default();
    let first = match Short::ask(upstream).await {
        Ok(first) => first,
        Err(failed) => return Ok(Err(failed)),
    };
    writeln!(out, "  first token    after {}", milliseconds(first.until_first))?;
    writeln!(out, "  speed          {}", first.speed())?;
    let reason = first.finish_reason.as_deref();
    writeln!(out, "  finish_reason  {}", reason.unwrap_or("missing, which the settings accept"))?;
    writeln!(out, "  usage          {}", first.usage())?;
    if !first.exact {
        found.doubts.push("it does not say what a reply costs, so that is estimated");
    }
    if first.size == 0 {
        found.defect = Some("it answered without any text");
        return Ok(Ok(found));
    }

    writeln!(
        out,
        "  stop           {}",
        match stop(upstream).await {
            Ok(Stop { again, whole: false }) => {
                format!(
                    "the connection was dropped; the next first token came after {}",
                    milliseconds(again)
                )
            }
            Ok(Stop { whole: true, .. }) => "not tried: the long answer came at once".into(),
            Err(failed) => {
                found.defect = Some(advice(failed.reason));
                format!("then it failed: {}", failed.reason.code())
            }
        }
    )?;

    writeln!(
        out,
        "  errors         {}",
        match upstream.provoke().await {
            Ok((status @ 400..500, body)) if !body.message.is_empty() => {
                format!("status {status} with a message, as expected")
            }
            Ok((status, body)) => {
                found.doubts.push("it does not refuse a wrong request as OpenAI does");
                let message =
                    if body.message.is_empty() { "without a message" } else { "with a message" };
                format!("a wrong request was answered with status {status}, {message}")
            }
            Err(failed) => {
                found.doubts.push("it does not answer a wrong request");
                failed.reason.code().into()
            }
        }
    )?;
    Ok(Ok(found))
}

/// The measurements of a short answer.
struct Short {
    until_first: Duration,
    /// Time from the first text to the last.
    saying: Duration,
    /// Size of the text in bytes, without reasoning.
    size: usize,
    /// Number of tokens, exact or estimated.
    tokens: u32,
    exact: bool,
    input_tokens: u32,
    finish_reason: Option<String>,
}

impl Short {
    async fn ask(upstream: &Upstream) -> Result<Self, UpstreamError> {
        let asked = Instant::now();
        let (mut response_stream, first) = begin(upstream, SHORT).await?;
        let until_first = asked.elapsed();
        let mut last = Instant::now();
        let (mut size, mut all, mut estimate) = (0, 0, 0_u32);
        let mut step = first;
        while !matches!(step, Step::End) {
            let Step::Chunk(Chunk::Delta(more)) = step else {
                step = response_stream.next().await?;
                continue;
            };
            last = Instant::now();
            all += more.text().len();
            if let Piece::Text(text) = &more {
                size += text.len();
            }
            estimate = estimate.saturating_add(estimate_tokens(more.text()));
            if all > MAX_ANSWER {
                return Err(UpstreamError::new(
                    Reason::Protocol,
                    "the answer to a short question is endless",
                ));
            }
            step = response_stream.next().await?;
        }
        let usage = response_stream.usage();
        Ok(Self {
            until_first,
            saying: last.saturating_duration_since(asked + until_first),
            size,
            tokens: usage.map_or(estimate, |usage| usage.output_tokens),
            exact: usage.is_some(),
            input_tokens: usage.map_or(0, |usage| usage.input_tokens),
            finish_reason: response_stream.finish_reason().map(|reason| reason.as_ref().into()),
        })
    }

    fn speed(&self) -> String {
        let mut text = format!("{} tokens", self.tokens);
        // A single chunk has no speed.
        if self.saying > Duration::from_millis(1) {
            // The first token arrived before the measured time.
            let rate = f64::from(self.tokens.saturating_sub(1)) / self.saying.as_secs_f64();
            let _infallible = write!(text, ", {rate:.0} per second after the first");
        }
        text
    }

    fn usage(&self) -> String {
        if self.exact {
            format!("{} tokens in, {} out", self.input_tokens, self.tokens)
        } else {
            "missing".into()
        }
    }
}

struct Stop {
    /// Time to the first text of a request right after it.
    again: Duration,
    /// The answer was complete before it was cancelled.
    whole: bool,
}

async fn stop(upstream: &Upstream) -> Result<Stop, UpstreamError> {
    let (response_stream, first) = begin(upstream, LONG).await?;
    let whole = matches!(first, Step::End);
    drop(response_stream);
    let again = Instant::now();
    begin(upstream, SHORT).await?;
    Ok(Stop { again: again.elapsed(), whole })
}

async fn begin(upstream: &Upstream, text: &str) -> Result<(ResponseStream, Step), UpstreamError> {
    let request = ChatRequest { messages: vec![ChatMessage::text("user", text)], options: None };
    let permit = upstream.acquire(Duration::ZERO, Patience::Unlimited).await;
    let permit = permit.map_err(|refused| UpstreamError::new(refused.reason(), refused))?;
    // The check as a whole has the time limit of a reply.
    let total = Instant::now() + A_DAY;
    let mut response_stream = upstream.ask(&request, total, permit, false).await?;
    let first = response_stream.next().await?;
    Ok((response_stream, first))
}

const fn advice(reason: Reason) -> &'static str {
    match reason {
        Reason::ConnectTimeout | Reason::Unavailable => {
            "it cannot be reached, or is not well; is the base URL right, does the server run?"
        }
        Reason::FirstContentTimeout => {
            "it takes too long to begin; raise the first-content timeout"
        }
        Reason::ChunkTimeout => "it falls silent; raise the chunk timeout",
        Reason::TotalTimeout => "it takes too long; raise the total timeout",
        Reason::RateLimited => "it has too much to do; try again later",
        Reason::Quota => "the account's quota is used up",
        Reason::Auth => "it refuses the API key",
        Reason::Rejected => "it refuses the request; are the model and the base URL right?",
        Reason::Truncated => {
            "its answers do not say why they end; if that is its way, set \
             accept_missing_finish_reason"
        }
        Reason::Failed => "it reports an error",
        Reason::Protocol => "it does not stream chat completions as OpenAI does",
        Reason::ContextTooLong => "its context is too small for a single sentence",
        Reason::Overloaded => "no permit became free",
    }
}

fn milliseconds(time: Duration) -> String {
    format!("{} ms", time.as_millis())
}
