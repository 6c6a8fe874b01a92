//! The structure of the source: allowed dependencies between modules, no import cycles between
//! files, and a repository that speaks only about itself.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    process::Command,
};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// Modules that a module may import, beside itself.
const ALLOWED: [(&str, &[&str]); 10] = [
    ("telemetry", &[]),
    ("session", &[]),
    // It converts messages of the log, for transports and responders alike.
    ("proto", &["session"]),
    ("store", &["session", "telemetry"]),
    ("responder", &["proto", "session", "telemetry"]),
    ("identity", &["session", "telemetry"]),
    ("transport", &["proto", "session", "telemetry"]),
    ("server", &["session", "telemetry", "transport"]),
    (
        "commands",
        &["identity", "responder", "server", "session", "store", "telemetry", "transport"],
    ),
    (
        "cli",
        &[
            "commands",
            "identity",
            "responder",
            "server",
            "session",
            "store",
            "telemetry",
            "transport",
        ],
    ),
];

/// Libraries of transports and stores, which the core must not name.
const FOREIGN_TO_THE_CORE: [&str; 8] =
    ["axum", "h2", "http", "hyper", "prost", "redis", "rusqlite", "tonic"];

type Module = Vec<String>;

/// The source files, by module.
struct Source(BTreeMap<Module, String>);

impl Source {
    fn read() -> Self {
        let mut files = BTreeMap::new();
        let mut folders = vec![PathBuf::from(ROOT).join("src")];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    folders.push(path);
                } else if path.extension().is_some_and(|extension| extension == "rs") {
                    let text = fs::read_to_string(&path).unwrap();
                    // Tests may import what they like.
                    let code = text.split("\n#[cfg(test)]\n").next().unwrap();
                    let code = code.split("\n#[cfg(all(test").next().unwrap();
                    files.insert(module_of(&path), code.to_owned());
                }
            }
        }
        Self(files)
    }

    /// The imports of a file, as absolute paths. A re-export is none: it only renames.
    fn imports(&self, module: &Module) -> Vec<Module> {
        let mut imports = Vec::new();
        for (_, tree) in uses(&self.0[module]).into_iter().filter(|(is_public, _)| !is_public) {
            flatten(&tree, &[], &mut imports);
        }
        imports.into_iter().filter_map(|path| self.absolute(module, &path)).collect()
    }

    /// A path of this crate, from its root.
    fn absolute(&self, module: &Module, path: &[String]) -> Option<Module> {
        let (first, rest) = path.split_first()?;
        let mut base = match first.as_str() {
            "crate" => Vec::new(),
            "self" => module.clone(),
            "super" => module[..module.len().checked_sub(1)?].to_vec(),
            name => {
                let mut child = module.clone();
                child.push(name.to_owned());
                // A child module; else a library.
                return self.0.contains_key(&child).then(|| [&module[..], path].concat());
            }
        };
        let mut rest = rest;
        while let Some(("super", after)) = rest.split_first().map(|(name, it)| (name.as_str(), it))
        {
            base.pop()?;
            rest = after;
        }
        base.extend_from_slice(rest);
        Some(base)
    }

    /// The file that defines what a path names, behind re-exports.
    fn definition(&self, path: &[String], depth: u32) -> Option<Module> {
        let length = (0..=path.len()).rev().find(|&end| self.0.contains_key(&path[..end]))?;
        let (module, rest) = path.split_at(length);
        let module = module.to_vec();
        let Some(name) = rest.first().filter(|_| depth < 8) else { return Some(module) };
        for (is_public, tree) in uses(&self.0[&module]) {
            let mut exported = Vec::new();
            flatten(&tree, &[], &mut exported);
            let found = exported.iter().find(|path| path.last() == Some(name));
            if let Some(absolute) =
                found.filter(|_| is_public).and_then(|it| self.absolute(&module, it))
            {
                return self.definition(&absolute, depth + 1);
            }
        }
        Some(module)
    }
}

fn module_of(path: &Path) -> Module {
    let relative = path.strip_prefix(Path::new(ROOT).join("src")).unwrap().with_extension("");
    let mut module: Module =
        relative.iter().map(|part| part.to_str().unwrap().to_owned()).collect();
    if matches!(module.last().map(String::as_str), Some("mod" | "lib")) {
        module.pop();
    }
    module
}

/// The trees of the `use` items of a file, and whether each is exported.
fn uses(code: &str) -> Vec<(bool, String)> {
    let mut found = Vec::new();
    let mut rest = code;
    while let Some(at) = rest.find("use ") {
        let line = rest[..at].rsplit('\n').next().unwrap_or_default().trim();
        let after = &rest[at + 4..];
        let is_item = line.is_empty() || line.starts_with("pub");
        if is_item && let Some((tree, _)) = after.split_once(';') {
            found.push((line.starts_with("pub"), tree.split_whitespace().collect()));
        }
        rest = after;
    }
    found
}

/// The paths of a `use` tree without white space.
fn flatten(tree: &str, prefix: &[String], paths: &mut Vec<Module>) {
    let mut depth = 0;
    let is_top_level_comma = |letter: char| {
        match letter {
            '{' => depth += 1,
            '}' => depth -= 1,
            _ => {}
        }
        letter == ',' && depth == 0
    };
    for part in tree.split(is_top_level_comma).filter(|part| !part.is_empty()) {
        let (head, group) = match part.split_once('{') {
            Some((head, group)) => (head, group.strip_suffix('}')),
            None => (part, None),
        };
        let mut path = prefix.to_vec();
        let names = head.split("::").filter(|name| !name.is_empty() && *name != "self");
        let is_self = head == "self" && !prefix.is_empty();
        let names = names.map(|name| {
            // Spaces are gone: `a as b` has become `aasb`.
            name.strip_suffix("as_").unwrap_or(name).to_owned()
        });
        if head.starts_with("self::") {
            path.push("self".into());
        }
        path.extend(names);
        match group {
            Some(group) => flatten(group, &path, paths),
            None if is_self => paths.push(prefix.to_vec()),
            None => paths.push(path),
        }
    }
}

#[test]
fn modules_import_only_what_they_may() {
    let source = Source::read();
    for module in source.0.keys().filter(|module| !module.is_empty() && module[0] != "main") {
        let own = module[0].as_str();
        let (_, allowed) = ALLOWED
            .iter()
            .find(|(name, _)| *name == own)
            .unwrap_or_else(|| panic!("{own} is not in the table of allowed dependencies"));
        let mut imported: BTreeSet<_> =
            source.imports(module).into_iter().filter_map(|path| path.first().cloned()).collect();
        // Paths that are written out where they are used.
        let lines = source.0[module].lines().filter(|line| !line.trim_start().starts_with("//"));
        for line in lines {
            for (at, _) in line.match_indices("crate::") {
                let name = line[at + 7..].split(|c: char| !c.is_alphanumeric() && c != '_').next();
                imported.extend(name.map(ToOwned::to_owned).filter(|name| !name.is_empty()));
            }
        }
        for name in imported {
            let is_module = source.0.keys().any(|module| module.first() == Some(&name));
            assert!(
                !is_module || name == own || allowed.contains(&name.as_str()),
                "{} must not import {name}",
                module.join("::")
            );
        }
    }
}

#[test]
fn the_core_names_no_transport_and_no_store() {
    let source = Source::read();
    for (module, code) in
        source.0.iter().filter(|(module, _)| module.first().is_some_and(|it| it == "session"))
    {
        let lines = code.lines().filter(|line| !line.trim_start().starts_with("//"));
        for line in lines {
            for library in FOREIGN_TO_THE_CORE {
                let is_named = line.split(|c: char| !c.is_alphanumeric() && c != '_' && c != ':');
                let is_named =
                    is_named.into_iter().any(|path| path.starts_with(&format!("{library}::")));
                assert!(!is_named, "{}: {line}", module.join("::"));
            }
        }
    }
}

#[test]
fn no_files_import_each_other_in_a_circle() {
    let source = Source::read();
    let edges: BTreeMap<&Module, BTreeSet<Module>> = source
        .0
        .keys()
        .map(|module| {
            let targets = source.imports(module).into_iter();
            let targets = targets.filter_map(|path| source.definition(&path, 0));
            (module, targets.filter(|target| target != module).collect())
        })
        .collect();
    // Files that import nothing of the others are removed, until none is left or a circle is.
    let mut left: BTreeSet<&Module> = edges.keys().copied().collect();
    loop {
        let free: Vec<_> = left
            .iter()
            .filter(|module| !edges[**module].iter().any(|target| left.contains(target)))
            .copied()
            .collect();
        if free.is_empty() {
            break;
        }
        left.retain(|module| !free.contains(module));
    }
    let circle: Vec<_> = left
        .iter()
        .map(|module| {
            let targets = edges[*module].iter().filter(|target| left.contains(target));
            let targets: Vec<_> = targets.map(|target| target.join("::")).collect();
            format!("{} → {}", module.join("::"), targets.join(", "))
        })
        .collect();
    assert!(circle.is_empty(), "files that import each other:\n{}", circle.join("\n"));
}

/// Files hold what is known about the project, not how it was planned.
#[test]
fn tracked_files_do_not_mention_planning() {
    let listed = Command::new("git").args(["ls-files", "-z"]).current_dir(ROOT).output().unwrap();
    assert!(listed.status.success());
    let forbidden =
        ["design", "contract", "nodes", "style", "traps"].map(|name| format!("shared/{name}.md"));
    for name in
        String::from_utf8(listed.stdout).unwrap().split('\0').filter(|name| !name.is_empty())
    {
        let Ok(text) = fs::read_to_string(Path::new(ROOT).join(name)) else { continue };
        if name == "tests/structure.rs" {
            continue;
        }
        for planning in &forbidden {
            assert!(!text.contains(planning.as_str()), "{name} mentions {planning}");
        }
        for line in text.lines() {
            let lower = line.to_lowercase();
            for (at, _) in lower.match_indices("issue ") {
                let number = lower[at + 6..].trim_start_matches('#');
                assert!(!number.starts_with(|c: char| c.is_ascii_digit()), "{name}: {line}");
            }
        }
    }
}
