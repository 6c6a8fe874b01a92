//! How a turn is to be answered.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{Error, ErrorKind, Result, json};

/// Most bytes of all fields.
const MAX_SIZE: usize = 32 << 10;

/// Most tools.
const MAX_TOOLS: usize = 128;

/// Options of one turn. They are stored with the user message, so that another attempt asks the
/// same, and only responders see them.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TurnOptions {
    /// The model, as the responder names it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<Arc<str>>,
    /// Follows the system prompt of the operator.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub instructions: Option<Arc<str>>,
    /// Tools that the client runs.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tools: Vec<Tool>,
    /// `auto`, `none`, `required`, or the name of a tool.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tool_choice: Option<Arc<str>>,
    /// Most tokens of the reply.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_output_tokens: Option<u32>,
    /// Sampling temperature.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub temperature: Option<f32>,
    /// A JSON object with further fields for the responder.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub extra: Option<Arc<str>>,
}

/// A tool that the client runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tool {
    /// 1 to 64 of a-z, A-Z, 0-9, `_` and `-`.
    pub name: Arc<str>,
    /// For the model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<Arc<str>>,
    /// JSON Schema of the arguments.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parameters: Option<Arc<str>>,
}

/// A field of [`TurnOptions`] that the operator may allow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TurnOption {
    /// `model`.
    Model,
    /// `instructions`.
    Instructions,
    /// `tools` and `tool_choice`.
    Tools,
    /// `max_output_tokens`.
    MaxOutputTokens,
    /// `temperature`.
    Temperature,
    /// `extra`.
    Extra,
}

impl TurnOption {
    /// All options, in the order of their fields.
    pub const ALL: [Self; 6] = [
        Self::Model,
        Self::Instructions,
        Self::Tools,
        Self::MaxOutputTokens,
        Self::Temperature,
        Self::Extra,
    ];

    /// Returns the name of the field.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Model => "model",
            Self::Instructions => "instructions",
            Self::Tools => "tools",
            Self::MaxOutputTokens => "max_output_tokens",
            Self::Temperature => "temperature",
            Self::Extra => "extra",
        }
    }

    fn is_set(self, options: &TurnOptions) -> bool {
        match self {
            Self::Model => options.model.is_some(),
            Self::Instructions => options.instructions.is_some(),
            Self::Tools => !options.tools.is_empty() || options.tool_choice.is_some(),
            Self::MaxOutputTokens => options.max_output_tokens.is_some(),
            Self::Temperature => options.temperature.is_some(),
            Self::Extra => options.extra.is_some(),
        }
    }
}

impl TurnOptions {
    /// Returns true if no field is set.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        TurnOption::ALL.iter().all(|option| !option.is_set(self))
    }

    /// Checks the values, and that the operator allows them.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`] names the field.
    pub fn check(&self, allowed: &[TurnOption]) -> Result<()> {
        for option in TurnOption::ALL {
            if option.is_set(self) && !allowed.contains(&option) {
                return Err(invalid(format!("options.{} may not be set here", option.name())));
            }
        }
        if self.size() > MAX_SIZE {
            return Err(invalid(format!("options are larger than {MAX_SIZE} bytes")));
        }
        if self.tools.len() > MAX_TOOLS {
            return Err(invalid(format!("options.tools has more than {MAX_TOOLS} tools")));
        }
        self.tools.iter().try_for_each(Tool::check)?;
        if self.temperature.is_some_and(|it| !(0.0..=2.0).contains(&it)) {
            return Err(invalid("options.temperature must be from 0 to 2"));
        }
        if self.max_output_tokens == Some(0) {
            return Err(invalid("options.max_output_tokens must be at least 1"));
        }
        match self.tool_choice.as_deref() {
            None | Some("auto" | "none" | "required") => {}
            Some(name) if self.tools.iter().any(|tool| *tool.name == *name) => {}
            Some(_) => {
                return Err(invalid(
                    "options.tool_choice must be auto, none, required or the name of a tool",
                ));
            }
        }
        match self.extra.as_deref() {
            Some(extra) if !json::is_object(extra) => {
                Err(invalid("options.extra must be a JSON object"))
            }
            _ => Ok(()),
        }
    }

    /// Returns the bytes of all texts.
    #[must_use]
    pub fn size(&self) -> usize {
        let texts = [&self.model, &self.instructions, &self.tool_choice, &self.extra];
        let texts: usize = texts.into_iter().flatten().map(|text| text.len()).sum();
        texts + self.tools.iter().map(Tool::size).sum::<usize>()
    }

    /// Writes the options as JSON, for stores.
    ///
    /// # Errors
    /// `Internal`: a number has no JSON form, which a checked value excludes.
    pub fn to_json(&self) -> Result<String> {
        serde_json::to_string(self).map_err(Error::internal)
    }

    /// Reads the form of [`Self::to_json`].
    ///
    /// # Errors
    /// `Internal`: the form is not that of this version.
    pub fn from_json(json: &str) -> Result<Self> {
        serde_json::from_str(json).map_err(Error::internal)
    }
}

impl Tool {
    fn check(&self) -> Result<()> {
        let is_valid = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
        if !(1..=64).contains(&self.name.len()) || !self.name.bytes().all(is_valid) {
            return Err(invalid(
                "the name of a tool must be 1 to 64 of a-z, A-Z, 0-9, `_` and `-`",
            ));
        }
        match self.parameters.as_deref() {
            Some(parameters) if !json::is_object(parameters) => Err(invalid(format!(
                "the parameters of the tool {} must be a JSON object",
                self.name
            ))),
            _ => Ok(()),
        }
    }

    fn size(&self) -> usize {
        let texts = [self.description.as_ref(), self.parameters.as_ref()];
        self.name.len() + texts.into_iter().flatten().map(|text| text.len()).sum::<usize>()
    }
}

fn invalid(message: impl Into<std::borrow::Cow<'static, str>>) -> Error {
    Error::new(ErrorKind::InvalidArgument, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(options: &TurnOptions) -> Option<String> {
        options.check(&TurnOption::ALL).err().map(|error| error.to_string())
    }

    #[test]
    fn wrong_options_are_named() {
        let tool = |name: &str, parameters: Option<&str>| TurnOptions {
            tools: vec![Tool {
                name: name.into(),
                description: None,
                parameters: parameters.map(Into::into),
            }],
            ..TurnOptions::default()
        };
        assert_eq!(refusal(&tool("weather", Some("{}"))), None);
        let chosen = TurnOptions { tool_choice: Some("weather".into()), ..tool("weather", None) };
        assert_eq!(refusal(&chosen), None);
        for (options, named) in [
            (tool("", None), "name"),
            (tool("a b", None), "name"),
            (tool("a", Some("[]")), "parameters"),
            (tool("a", Some("{")), "parameters"),
            (
                TurnOptions { tool_choice: Some("x".into()), ..TurnOptions::default() },
                "tool_choice",
            ),
            (TurnOptions { temperature: Some(f32::NAN), ..TurnOptions::default() }, "temperature"),
            (TurnOptions { temperature: Some(2.5), ..TurnOptions::default() }, "temperature"),
            (TurnOptions { max_output_tokens: Some(0), ..TurnOptions::default() }, "max_output"),
            (TurnOptions { extra: Some("1".into()), ..TurnOptions::default() }, "extra"),
            (
                TurnOptions {
                    instructions: Some("x".repeat(MAX_SIZE + 1).into()),
                    ..TurnOptions::default()
                },
                "larger",
            ),
        ] {
            let problem = refusal(&options).unwrap_or_default();
            assert!(problem.contains(named), "{options:?}: {problem}");
        }
    }

    #[test]
    fn an_option_that_the_operator_does_not_allow_is_refused() {
        let options = TurnOptions { model: Some("large".into()), ..TurnOptions::default() };
        assert!(options.check(&[TurnOption::Tools]).is_err());
        assert!(options.check(&[TurnOption::Model]).is_ok());
        assert!(TurnOptions::default().check(&[]).is_ok());
    }

    #[test]
    fn options_are_their_own_json_again() {
        let options = TurnOptions { temperature: Some(0.7), ..TurnOptions::default() };
        let json = options.to_json().unwrap();
        assert_eq!(json, r#"{"temperature":0.7}"#);
        assert_eq!(TurnOptions::from_json(&json).unwrap(), options);
    }
}
