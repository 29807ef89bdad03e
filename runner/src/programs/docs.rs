// SPDX-License-Identifier: GPL-2.0-only
//! What the tests say about themselves: the doc comments of `selftests/tests`,
//! as the text of `docs/targets.md`.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::io;
use std::path::Path;

use super::Target;

/// First paragraphs of doc comments: of targets by name, of tests by
/// `target.module::function`.
#[derive(Debug, Default)]
pub struct Docs {
    targets: BTreeMap<String, String>,
    tests: BTreeMap<String, String>,
}

/// Why there is no text.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A source file could not be read.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// A source file is not Rust.
    #[error("cannot parse {path}")]
    Parse {
        /// The file.
        path: String,
        /// Where it stops to be Rust.
        source: syn::Error,
    },
    /// A test or target says nothing about itself.
    #[error("{0} has no doc comment; say in one sentence what it checks")]
    Undocumented(String),
}

impl Docs {
    /// Reads all targets below `tests`: `TARGET.rs`, `TARGET/main.rs` and the
    /// modules in `TARGET/`.
    ///
    /// # Errors
    /// When a file cannot be read or parsed.
    pub fn read(tests: &Path) -> Result<Self, Error> {
        let mut docs = Self::default();
        docs.folder(tests, &[])?;
        Ok(docs)
    }

    fn folder(&mut self, dir: &Path, modules: &[String]) -> Result<(), Error> {
        for entry in fs_err::read_dir(dir)? {
            let path = entry?.path();
            let stem = path
                .file_stem()
                .map(|stem| stem.to_string_lossy().into_owned());
            let Some(stem) = stem else { continue };
            let mut inner = modules.to_vec();
            if !["main", "mod"].contains(&stem.as_str()) {
                inner.push(stem);
            }
            if path.is_dir() {
                self.folder(&path, &inner)?;
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs_err::read_to_string(&path)?;
                let parsed = syn::parse_file(&text).map_err(|source| Error::Parse {
                    path: path.display().to_string(),
                    source,
                })?;
                self.file(&parsed, &inner);
            }
        }
        Ok(())
    }

    fn file(&mut self, file: &syn::File, modules: &[String]) {
        if let [target] = modules {
            self.targets
                .insert(target.clone(), first_paragraph(&file.attrs));
        }
        self.items(&file.items, modules);
    }

    fn items(&mut self, items: &[syn::Item], modules: &[String]) {
        for item in items {
            match item {
                syn::Item::Fn(function) => {
                    let Some((target, inner)) = modules.split_first() else {
                        continue;
                    };
                    let mut path = inner.to_vec();
                    path.push(function.sig.ident.to_string());
                    let name = format!("{target}.{}", path.join("::"));
                    self.tests.insert(name, first_paragraph(&function.attrs));
                }
                syn::Item::Mod(module) => {
                    let Some((_, items)) = &module.content else {
                        continue;
                    };
                    let mut inner = modules.to_vec();
                    inner.push(module.ident.to_string());
                    self.items(items, &inner);
                }
                _ => {}
            }
        }
    }

    /// The function behind a test's name, and what it says.
    fn of<'a>(&'a self, target: &str, test: &'a str) -> Option<(&'a str, &'a str)> {
        let parent = test.rsplit_once("::").map(|(function, _)| function);
        [Some(test), parent]
            .into_iter()
            .flatten()
            .find_map(|function| {
                let text = self.tests.get(&format!("{target}.{function}"))?;
                (!text.is_empty()).then_some((function, text.as_str()))
            })
    }

    /// `docs/targets.md` for `targets`: a line for each test function.
    ///
    /// # Errors
    /// When a target or test says nothing about itself.
    pub fn markdown(&self, targets: &[Target]) -> Result<String, Error> {
        let mut text = String::from(
            "# Targets\n\nMade by `hugeprobe docs` from the tests' own doc comments. Variants of a \
             test follow its name.\n",
        );
        for target in targets.iter().filter(|target| !target.is_hidden()) {
            let about = self
                .targets
                .get(&target.name)
                .filter(|about| !about.is_empty());
            let about = about.ok_or_else(|| Error::Undocumented(target.name.clone()))?;
            // Writing to a String does not fail.
            let _ = write!(text, "\n## {}\n\n{about}\n\n", target.name);
            text.push_str("| test | what it checks |\n|---|---|\n");
            for Function {
                name,
                about,
                variants,
            } in self.functions(target)?
            {
                let variants = match variants.as_slice() {
                    [] => String::new(),
                    names => format!(": {}", names.join(", ")),
                };
                let _ = writeln!(
                    text,
                    "| `{name}`{variants} | {} |",
                    about.replace('|', "\\|")
                );
            }
        }
        Ok(text)
    }

    /// The functions of a target's tests, in its order.
    fn functions<'a>(&'a self, target: &'a Target) -> Result<Vec<Function<'a>>, Error> {
        let mut functions: Vec<Function> = Vec::new();
        for test in &target.tests {
            let (function, about) = self
                .of(&target.name, &test.name)
                .ok_or_else(|| Error::Undocumented(format!("{}.{}", target.name, test.name)))?;
            let variant = test.name[function.len()..].strip_prefix("::");
            match functions.iter_mut().find(|f| f.name == function) {
                Some(known) => known.variants.extend(variant),
                None => functions.push(Function {
                    name: function,
                    about,
                    variants: variant.into_iter().collect(),
                }),
            }
        }
        Ok(functions)
    }
}

/// A function that is one test or, by its variants, several.
struct Function<'a> {
    name: &'a str,
    about: &'a str,
    variants: Vec<&'a str>,
}

/// The first paragraph of a doc comment, on one line.
fn first_paragraph(attributes: &[syn::Attribute]) -> String {
    let lines = attributes
        .iter()
        .filter_map(|attribute| match &attribute.meta {
            syn::Meta::NameValue(pair) if pair.path.is_ident("doc") => match &pair.value {
                syn::Expr::Lit(syn::ExprLit {
                    lit: syn::Lit::Str(text),
                    ..
                }) => Some(text.value()),
                _ => None,
            },
            _ => None,
        });
    let paragraph: Vec<String> = lines
        .map(|line| line.trim().to_owned())
        .take_while(|line| !line.is_empty())
        .collect();
    paragraph.join(" ")
}

#[cfg(test)]
mod tests {
    use super::super::Test;
    use super::*;

    fn target(tests: &[&str]) -> Target {
        let test = |name: &&str| Test {
            name: (*name).into(),
            raw_name: (*name).into(),
        };
        Target {
            name: "pmd".into(),
            program: "pmd".into(),
            tests: tests.iter().map(test).collect(),
        }
    }

    fn docs() -> Docs {
        let dir = tempfile::tempdir().unwrap();
        fs_err::create_dir(dir.path().join("pmd")).unwrap();
        let main = "//! Splits of\n//! a PMD.\n//!\n//! More.\nmod partial;\n\
            /// Plain.\n#[test]\nfn plain() {}\nmod inner { /// Inside.\n fn x() {} fn bare() {} }";
        let partial =
            "//! Parts.\n/// munmap a | b.\n#[test_case(1; \"head\")]\nfn munmap(_: u8) {}";
        fs_err::write(dir.path().join("pmd/main.rs"), main).unwrap();
        fs_err::write(dir.path().join("pmd/partial.rs"), partial).unwrap();
        Docs::read(dir.path()).unwrap()
    }

    #[test]
    fn functions_have_one_line_with_their_variants() {
        let tests = [
            "plain",
            "partial::munmap::head",
            "partial::munmap::tail",
            "inner::x",
        ];
        let text = docs().markdown(&[target(&tests)]).unwrap();
        let (_, table) = text.split_once("\n## pmd\n\n").unwrap();
        assert_eq!(
            table,
            "Splits of a PMD.\n\n| test | what it checks |\n|---|---|\n| `plain` | Plain. |\n\
             | `partial::munmap`: head, tail | munmap a \\| b. |\n| `inner::x` | Inside. |\n"
        );
    }

    #[test]
    fn silence_is_an_error() {
        for test in ["inner::bare", "made_by_a_macro"] {
            let error = docs().markdown(&[target(&[test])]).unwrap_err().to_string();
            assert!(error.starts_with(&format!("pmd.{test} ")), "{error}");
        }
    }
}
