// SPDX-License-Identifier: GPL-2.0-only
//! Takes functions and tables out of a C source that nothing in it uses. The frame of
//! `repro.c` has one for each thing that a program may do; a person who reads it
//! shall find those that this one does.

use std::collections::HashSet;

/// Said of functions that may not be needed, in the source.
const UNUSED: &str = "UNUSED ";

/// The source without functions that are not needed, and without the word for them.
pub fn needed(source: &str) -> String {
    let items = items(source);
    let mut kept: Vec<bool> = items.iter().map(|item| defined(item).is_none()).collect();
    loop {
        let mut words = HashSet::new();
        for (item, _) in items.iter().zip(&kept).filter(|(_, kept)| **kept) {
            words.extend(identifiers(item).map(str::to_owned));
        }
        let mut more = false;
        for (item, kept) in items.iter().zip(&mut kept).filter(|(_, kept)| !**kept) {
            *kept = defined(item).is_none_or(|name| words.contains(name));
            more |= *kept;
        }
        if !more {
            break;
        }
    }
    let needed = items.iter().zip(kept).filter(|(_, kept)| *kept);
    let texts: Vec<String> = needed
        .map(|(item, _)| item.replace("\nUNUSED ", "\n"))
        .map(|item| item.strip_prefix(UNUSED).unwrap_or(&item).to_owned())
        .map(|item| item.replace("#define UNUSED __attribute__((unused))\n", ""))
        .collect();
    texts.join("\n\n") + "\n"
}

/// What stands between empty lines outside of braces: declarations and functions.
fn items(source: &str) -> Vec<String> {
    let mut items = Vec::new();
    let mut item = String::new();
    let mut open = false;
    for line in source.lines() {
        // a body begins and ends in the first column
        open = match line {
            "{" => true,
            "}" => false,
            _ => open,
        };
        if line.is_empty() && !open {
            items.extend(Some(std::mem::take(&mut item)).filter(|item| !item.is_empty()));
            continue;
        }
        if !item.is_empty() {
            item.push('\n');
        }
        item.push_str(line);
    }
    items.extend(Some(item).filter(|item| !item.is_empty()));
    items
}

/// The name of the function or table that the item defines.
/// `None` for what always stays: declarations of more than one thing, types, `main`.
fn defined(item: &str) -> Option<&str> {
    let mut heads = item
        .lines()
        .filter(|line| line.starts_with(UNUSED) || line.starts_with("static "));
    let (head, None) = (heads.next()?, heads.next()) else {
        return None;
    };
    let before = head.split(['(', '[', ';', '=']).next()?.trim_end();
    before.rsplit([' ', '*']).next()
}

/// The words of an item outside of comments and strings.
fn identifiers(item: &str) -> impl Iterator<Item = &str> {
    let code = item
        .split("/*")
        .enumerate()
        .map(|(number, part)| match number {
            0 => part,
            _ => part.split_once("*/").map_or("", |(_, code)| code),
        });
    let code = code.flat_map(|code| code.split('"').step_by(2));
    code.flat_map(|code| code.split(|c: char| !c.is_ascii_alphanumeric() && c != '_'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nothing_calls_goes_with_all_that_only_it_calls() {
        let source = "#define UNUSED __attribute__((unused))\nint kept;\n\n\
                      UNUSED static int deep(void)\n{\n\treturn 1;\n}\n\n\
                      /* says why */\nUNUSED static long used(int a)\n{\n\n\treturn a;\n}\n\n\
                      /* like deep */\nstatic int table[2] = { 1 };\n\n\
                      UNUSED static int not(void)\n{\n\treturn deep();\n}\n\n\
                      int main(void)\n{\n\tint a = 1;\n\n\treturn used(a);\n}\n";
        let wanted = "int kept;\n\n/* says why */\nstatic long used(int a)\n{\n\n\treturn a;\n}\n\n\
                      int main(void)\n{\n\tint a = 1;\n\n\treturn used(a);\n}\n";
        assert_eq!(needed(source), wanted);
    }
}
