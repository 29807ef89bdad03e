// SPDX-License-Identifier: GPL-2.0-only
//! Why does an option not survive? Reads the Kconfig files of a tree far enough
//! to tell which dependencies of a symbol are unmet. Defaults, ranges and
//! selects are Kconfig's own business and are skipped.

use std::path::Path;

use super::dotconfig::{DotConfig, Lost};
use super::expr::Expr;

/// One definition of a symbol; a symbol may have several.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Definition {
    /// Everything it depends on, through its own lines and what encloses it.
    pub depends: Vec<Expr>,
    /// When its prompt is visible; `None` if it has no prompt at all.
    pub prompt: Option<Vec<Expr>>,
}

/// What encloses an entry: `if`, `menu` or `choice`, with its dependencies.
#[derive(Clone, Debug)]
struct Block {
    keyword: &'static str,
    depends: Vec<Expr>,
}

/// Which entry the attribute lines belong to.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Entry {
    /// The symbol that is looked for.
    Wanted,
    /// The innermost block: its `depends on` binds all that it encloses.
    Block,
    /// Anything else.
    Other,
}

/// All definitions of `symbol` in the tree, read through `read`, which gets
/// paths relative to the tree's top.
pub fn definitions(symbol: &str, read: &dyn Fn(&str) -> Option<String>) -> Vec<Definition> {
    let mut search = Search {
        symbol,
        read,
        blocks: Vec::new(),
        found: Vec::new(),
        depth: 0,
    };
    search.file("Kconfig");
    search.found
}

struct Search<'a> {
    symbol: &'a str,
    read: &'a dyn Fn(&str) -> Option<String>,
    blocks: Vec<Block>,
    found: Vec<Definition>,
    depth: u32,
}

impl Search<'_> {
    fn file(&mut self, path: &str) {
        // The kernel's files nest a handful deep; this only stops a cycle.
        let Some(text) = (self.depth < 32).then(|| (self.read)(path)).flatten() else {
            return;
        };
        self.depth += 1;
        let mut entry = Entry::Other;
        for line in logical_lines(&text) {
            entry = self.line(line.trim(), entry);
        }
        self.depth -= 1;
    }

    fn line(&mut self, line: &str, entry: Entry) -> Entry {
        let (keyword, rest) = line.split_once([' ', '\t']).unwrap_or((line, ""));
        let rest = rest.trim();
        match keyword {
            "config" | "menuconfig" if rest == self.symbol => self.begin_definition(),
            "config" | "menuconfig" | "comment" | "mainmenu" => Entry::Other,
            "if" => self.open("if", Expr::parse(rest).into_iter().collect()),
            "menu" => self.open("menu", Vec::new()),
            "choice" => self.open("choice", Vec::new()),
            "endif" | "endmenu" | "endchoice" => self.close(&keyword[3..]),
            "source" => {
                self.file(&rest.trim_matches('"').replace("$(SRCARCH)", "x86"));
                Entry::Other
            }
            "depends" => self.depends(rest, entry),
            "bool" | "tristate" | "string" | "int" | "hex" | "prompt" | "def_bool" => {
                self.prompt(keyword, rest, entry)
            }
            _ => entry,
        }
    }

    fn begin_definition(&mut self) -> Entry {
        let depends = self
            .blocks
            .iter()
            .flat_map(|block| block.depends.clone())
            .collect();
        self.found.push(Definition {
            depends,
            prompt: None,
        });
        Entry::Wanted
    }

    fn open(&mut self, keyword: &'static str, depends: Vec<Expr>) -> Entry {
        self.blocks.push(Block { keyword, depends });
        Entry::Block
    }

    fn close(&mut self, keyword: &str) -> Entry {
        if self
            .blocks
            .last()
            .is_some_and(|block| block.keyword == keyword)
        {
            self.blocks.pop();
        }
        Entry::Other
    }

    fn depends(&mut self, rest: &str, entry: Entry) -> Entry {
        let Some(expr) = rest.strip_prefix("on").and_then(Expr::parse) else {
            return entry;
        };
        let target = match entry {
            Entry::Wanted => self.found.last_mut().map(|found| &mut found.depends),
            Entry::Block => self.blocks.last_mut().map(|block| &mut block.depends),
            Entry::Other => None,
        };
        target
            .into_iter()
            .for_each(|depends| depends.push(expr.clone()));
        entry
    }

    fn prompt(&mut self, keyword: &str, rest: &str, entry: Entry) -> Entry {
        let quoted = rest.starts_with(['"', '\'']) && keyword != "def_bool";
        if let (Entry::Wanted, true, Some(found)) = (entry, quoted, self.found.last_mut()) {
            let condition = rest
                .rsplit_once("\" if ")
                .and_then(|(_, expr)| Expr::parse(expr));
            found.prompt = Some(condition.into_iter().collect());
        }
        entry
    }
}

/// Lines with continuations joined and help texts left out. A help text ends at
/// the first line that is indented less than its first.
fn logical_lines(text: &str) -> Vec<String> {
    let mut lines = Vec::new();
    let mut joined = String::new();
    let mut help: Option<Option<usize>> = None;
    for line in text.lines() {
        if let Some(indent) = help {
            let width = indentation(line);
            match (line.trim().is_empty(), indent) {
                (true, _) => continue,
                (false, None) if width > 0 => {
                    help = Some(Some(width));
                    continue;
                }
                (false, Some(first)) if width >= first => continue,
                _ => help = None,
            }
        }
        if let Some(start) = line.strip_suffix('\\') {
            joined.push_str(start);
            continue;
        }
        joined.push_str(line);
        if matches!(joined.trim(), "help" | "---help---") {
            help = Some(None);
        }
        lines.push(std::mem::take(&mut joined));
    }
    lines
}

/// Columns of leading white space, tabs reaching to multiples of 8.
fn indentation(line: &str) -> usize {
    let mut columns = 0;
    for character in line.chars() {
        match character {
            ' ' => columns += 1,
            '\t' => columns = (columns / 8 + 1) * 8,
            _ => break,
        }
    }
    columns
}

/// One line for the user: the option, what it is, and why.
pub fn explain(lost: &Lost, config: &DotConfig, tree: &Path) -> String {
    let read = |path: &str| std::fs::read_to_string(tree.join(path)).ok();
    let why = why_lost(lost, config, &definitions(&lost.wish.symbol, &read));
    format!(
        "  CONFIG_{}={} (is {}): {why}",
        lost.wish.symbol, lost.wish.value, lost.actual
    )
}

fn why_lost(lost: &Lost, config: &DotConfig, definitions: &[Definition]) -> String {
    if definitions.is_empty() {
        return "this kernel has no such option".to_owned();
    }
    if lost.wish.value == "n" {
        return "something else in the configuration selects or forces it".to_owned();
    }
    let unmet_of = |definition: &Definition| -> Vec<String> {
        definition
            .depends
            .iter()
            .flat_map(|expr| expr.unmet(config))
            .collect()
    };
    // The definition that comes closest is the one worth explaining.
    let unmet = definitions
        .iter()
        .map(unmet_of)
        .min_by_key(Vec::len)
        .unwrap_or_default();
    if !unmet.is_empty() {
        return format!("unmet dependency {}", unmet.join(", "));
    }
    let hidden = |definition: &Definition| match &definition.prompt {
        None => Some("it cannot be set by hand, other options select it".to_owned()),
        Some(conditions) => {
            let unmet: Vec<String> = conditions
                .iter()
                .flat_map(|expr| expr.unmet(config))
                .collect();
            (!unmet.is_empty()).then(|| format!("it can be set only with {}", unmet.join(", ")))
        }
    };
    // A definition whose dependencies are met counts, whatever the others say.
    let met = definitions
        .iter()
        .filter(|definition| unmet_of(definition).is_empty());
    if let Some(reason) = met.map(hidden).min().flatten() {
        return reason;
    }
    let macros: Vec<String> = definitions
        .iter()
        .flat_map(|d| d.depends.iter().flat_map(Expr::macros))
        .collect();
    if macros.is_empty() {
        return "a choice or a range in Kconfig excludes this value".to_owned();
    }
    format!(
        "the compiler or linker fails the test {}",
        macros.join(", ")
    )
}

#[cfg(test)]
mod tests {
    use test_case::test_case;

    use super::super::dotconfig::parse_fragments;
    use super::*;

    const TOP: &str =
        "mainmenu \"x\"\n\nsource \"mm/Kconfig\"\nsource \"arch/$(SRCARCH)/Kconfig\"\n";
    const MM: &str = "menu \"Memory\"\n\tdepends on MMU\n\nif HUGE\n\
        config MEM_SOFT_DIRTY\n\tbool \"Track changes\"\n\
        \tdepends on CHECKPOINT_RESTORE && HAVE_SOFT_DIRTY && \\\n\t\tPROC_FS\n\tselect X\n\
        \thelp\n\t  This looks like\n\n\t  depends on NOTHING\n\nendif\n\
        config HIDDEN\n\tbool\n\
        config EXPERTS\n\tbool \"Sure?\" if EXPERT\n\
        config CHECKED\n\tbool \"C\"\n\tdepends on $(cc-option,-fx)\n\
        endmenu\n\
        config AFTER\n\tbool \"after the menu\"\n";
    const ARCH: &str = "config EXPERTS\n\tbool \"x86 too\"\n\tdepends on A && B\n";

    fn read(path: &str) -> Option<String> {
        let text = match path {
            "Kconfig" => TOP,
            "mm/Kconfig" => MM,
            "arch/x86/Kconfig" => ARCH,
            _ => return None,
        };
        Some(text.to_owned())
    }

    fn why(line: &str, config: &str) -> String {
        let config = DotConfig::parse(config);
        let lost = super::super::dotconfig::lost(&parse_fragments([line]), &config).remove(0);
        why_lost(&lost, &config, &definitions(&lost.wish.symbol, &read))
    }

    #[test_case("CONFIG_MEM_SOFT_DIRTY=y", "CONFIG_MMU=y\nCONFIG_HUGE=y\nCONFIG_PROC_FS=y\nCONFIG_HAVE_SOFT_DIRTY=y\n",
        "unmet dependency CHECKPOINT_RESTORE" ; "one unmet over a continued line")]
    #[test_case("CONFIG_MEM_SOFT_DIRTY=y", "CONFIG_PROC_FS=y\n",
        "unmet dependency MMU, HUGE, CHECKPOINT_RESTORE, HAVE_SOFT_DIRTY" ; "menu and if count")]
    #[test_case("CONFIG_HIDDEN=y", "CONFIG_MMU=y\n",
        "it cannot be set by hand, other options select it" ; "no prompt")]
    #[test_case("CONFIG_EXPERTS=y", "CONFIG_MMU=y\n",
        "it can be set only with EXPERT" ; "hidden prompt of the closest definition")]
    #[test_case("CONFIG_CHECKED=y", "CONFIG_MMU=y\n",
        "the compiler or linker fails the test $(cc-option,-fx)" ; "compiler test")]
    #[test_case("CONFIG_GONE=y", "", "this kernel has no such option" ; "unknown symbol")]
    #[test_case("CONFIG_AFTER=n", "CONFIG_AFTER=y\n",
        "something else in the configuration selects or forces it" ; "on against the wish")]
    #[test_case("CONFIG_AFTER=y", "",
        "a choice or a range in Kconfig excludes this value" ; "nothing unmet")]
    fn lost_option_is_explained(line: &str, config: &str, expected: &str) {
        assert_eq!(why(line, config), expected);
    }

    #[test]
    fn file_that_sources_itself_ends() {
        let cycle = |_: &str| Some("source \"Kconfig\"\nconfig A\n".to_owned());
        assert_eq!(definitions("A", &cycle).len(), 32);
    }
}
