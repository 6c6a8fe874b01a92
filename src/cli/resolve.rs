//! The value of each setting from the first source that has one.

use std::{env, ffi::OsString};

use clap::ArgMatches;

use super::{
    config_file::ConfigFile, env_file::EnvFile, setting::Setting, settings, values::Values,
};

/// Takes each setting from the flags, the environment, the configuration file, or its default.
///
/// # Errors
/// One line that names the place of the value that cannot be read.
pub(super) fn resolve(
    flags: &ArgMatches,
    env_file: &EnvFile,
    variable: impl Fn(&str) -> Option<OsString>,
) -> Result<Values, String> {
    let sources = Sources { flags, env_file, variable, file: ConfigFile::default() };
    let (mut values, mut sources) = (Values::default(), sources);
    // The configuration file itself comes first.
    if let Some(setting) = settings::all().find(|setting| setting.name == "config") {
        sources.set(&mut values, setting)?;
    }
    if let Some(path) = &values.config {
        sources.file = ConfigFile::read(path)?;
    }
    for setting in settings::all() {
        sources.set(&mut values, setting)?;
    }
    values.upstreams = sources.file.upstreams(&values.openai.defaults)?;
    Ok(values)
}

/// Returns the variables of the process that look like settings and are none of this version: a
/// typing error, or a setting of another version.
pub(super) fn unknown_variables() -> Vec<String> {
    let names = env::vars_os().filter_map(|(name, _)| name.into_string().ok());
    names
        .filter(|name| name.starts_with("DUOLOGUE_"))
        .filter(|name| settings::all().all(|setting| setting.variable != name))
        .collect()
}

struct Sources<'a, V> {
    flags: &'a ArgMatches,
    env_file: &'a EnvFile,
    variable: V,
    file: ConfigFile,
}

impl<V: Fn(&str) -> Option<OsString>> Sources<'_, V> {
    fn set(&self, values: &mut Values, setting: &'static Setting) -> Result<(), String> {
        let Some((text, place)) = self.find(setting)? else { return Ok(()) };
        (setting.field.set)(values, &text).map_err(|problem| {
            if setting.sensitive || text.len() > 100 || text.contains(char::is_control) {
                format!("{place}: {problem}")
            } else {
                format!("{place}: `{text}`: {problem}")
            }
        })
    }

    /// Returns a value, and its place for an error message.
    fn find(&self, setting: &'static Setting) -> Result<Option<(String, String)>, String> {
        if let Some(text) = self.flags.get_one::<String>(setting.name) {
            return Ok(Some((text.clone(), format!("--{}", setting.name))));
        }
        if let Some(value) = (self.variable)(setting.variable) {
            let place = self.env_file.place(setting.variable);
            let Ok(text) = value.into_string() else {
                return Err(format!("{place}: the value is not UTF-8"));
            };
            // Docker Compose writes `NAME=` for a variable that is not set.
            if !text.trim().is_empty() {
                return Ok(Some((text, place)));
            }
        }
        Ok(self.file.value(setting).map(|(text, place)| (text.to_owned(), place)))
    }
}
