//! The definition of a setting. Flag, environment variable, key of the configuration file, help
//! text, `--check-config`, `docs/SETTINGS.md`, `.env.example` and `examples/duologue.toml` are all
//! derived from it.

use super::values::Values;

pub(super) struct Setting {
    /// Long flag without its hyphens. The key of the configuration file is the same with
    /// underscores.
    pub(super) name: &'static str,
    pub(super) variable: &'static str,
    /// Where the value is kept, and how it is read and shown.
    pub(super) field: Field,
    /// One short line, without a full stop.
    pub(super) summary: &'static str,
    /// Full sentences that follow the summary in `--help` and in the reference; may be empty.
    pub(super) details: &'static str,
    /// The default in words, where it depends on something else or is not set.
    pub(super) default: Option<&'static str>,
    /// A value for the example files, where the default is no value.
    pub(super) example: Option<&'static str>,
    /// Listed by `-h`.
    pub(super) common: bool,
    /// Also accepted behind a command.
    pub(super) global: bool,
    /// May hold a secret: a wrong value is not repeated.
    pub(super) sensitive: bool,
}

/// How the value of a setting is kept.
pub(super) struct Field {
    /// Stands for the value in the help text.
    pub(super) value_name: &'static str,
    pub(super) set: fn(&mut Values, &str) -> Result<(), String>,
    /// Writes the value so that it can be read again. `None` if it is not set. A secret is
    /// replaced by `HIDDEN`.
    pub(super) show: fn(&Values) -> Option<String>,
}

/// Stands for a secret in what is printed.
pub(super) const HIDDEN: &str = "(hidden)";

/// Settings that belong together.
pub(super) struct Group {
    /// Heading in `--help` and in the reference.
    pub(super) heading: &'static str,
    /// Text under the heading in the reference, as Markdown; may be empty.
    pub(super) introduction: &'static str,
    /// In the order of the reference.
    pub(super) settings: &'static [Setting],
}

impl Setting {
    /// The default in words.
    pub(super) fn default_text(&self, defaults: &Values) -> Option<String> {
        self.default.map(Into::into).or_else(|| (self.field.show)(defaults))
    }

    /// Key of the configuration file.
    pub(super) fn key(&self) -> String {
        self.name.replace('-', "_")
    }
}

/// The common part of most definitions.
pub(super) const SETTING: Setting = Setting {
    name: "",
    variable: "",
    field: Field { value_name: "", set: |_, _| Ok(()), show: |_| None },
    summary: "",
    details: "",
    default: None,
    example: None,
    common: false,
    global: false,
    sensitive: false,
};

/// A field of `Values` by its kind and its path: `field!(Length, session.session_ttl)`, or
/// `field!(optional File, tls_cert)` for an `Option`.
macro_rules! field {
    (optional $kind:ty, $($path:ident).+) => {
        $crate::cli::setting::Field {
            value_name: <$kind as $crate::cli::value::ValueKind>::NAME,
            set: |values, text| {
                values.$($path).+ = Some(<$kind as $crate::cli::value::ValueKind>::parse(text)?);
                Ok(())
            },
            show: |values| {
                values.$($path).+.as_ref().map(<$kind as $crate::cli::value::ValueKind>::show)
            },
        }
    };
    ($kind:ty, $($path:ident).+) => {
        $crate::cli::setting::Field {
            value_name: <$kind as $crate::cli::value::ValueKind>::NAME,
            set: |values, text| {
                values.$($path).+ = <$kind as $crate::cli::value::ValueKind>::parse(text)?;
                Ok(())
            },
            show: |values| Some(<$kind as $crate::cli::value::ValueKind>::show(&values.$($path).+)),
        }
    };
}
pub(super) use field;
