// SPDX-License-Identifier: GPL-2.0-only
//! Pure: the expressions of Kconfig's `depends on` and `if`, evaluated against
//! a `.config` (Documentation/kbuild/kconfig-language.rst, "Menu dependencies").

use std::fmt;

use super::dotconfig::DotConfig;

/// An expression over symbols.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expr {
    /// A symbol, constant or quoted string.
    Atom(String),
    /// `$(...)`: computed by Kconfig from the compiler; not known here.
    Macro(String),
    /// `a = b`, `a < b` and the like.
    Compare(String, String, String),
    /// `!a`.
    Not(Box<Expr>),
    /// `a && b`.
    And(Box<Expr>, Box<Expr>),
    /// `a || b`.
    Or(Box<Expr>, Box<Expr>),
}

impl Expr {
    /// Parses a whole expression; `None` when it is not one.
    pub fn parse(text: &str) -> Option<Self> {
        let tokens = tokens(text)?;
        let mut parser = Parser {
            tokens: &tokens,
            at: 0,
        };
        let expr = parser.or()?;
        (parser.at == tokens.len()).then_some(expr)
    }

    /// The value: 0 for `n`, 1 for `m`, 2 for `y`. A macro counts as met.
    pub fn value(&self, config: &DotConfig) -> u8 {
        match self {
            Self::Atom(name) => tristate(resolve(name, config)),
            Self::Macro(_) => 2,
            Self::Compare(a, operator, b) => {
                if compare(resolve(a, config), operator, resolve(b, config)) {
                    2
                } else {
                    0
                }
            }
            Self::Not(inner) => 2 - inner.value(config),
            Self::And(a, b) => a.value(config).min(b.value(config)),
            Self::Or(a, b) => a.value(config).max(b.value(config)),
        }
    }

    /// The parts of a conjunction that are off, each as text.
    pub fn unmet(&self, config: &DotConfig) -> Vec<String> {
        match self {
            Self::And(a, b) => {
                let mut parts = a.unmet(config);
                parts.extend(b.unmet(config));
                parts
            }
            _ if self.value(config) > 0 => Vec::new(),
            other => vec![other.to_string()],
        }
    }

    /// The macros in it, which may be why a symbol is off after all.
    pub fn macros(&self) -> Vec<String> {
        match self {
            Self::Macro(text) => vec![text.clone()],
            Self::Atom(_) | Self::Compare(..) => Vec::new(),
            Self::Not(inner) => inner.macros(),
            Self::And(a, b) | Self::Or(a, b) => [a.macros(), b.macros()].concat(),
        }
    }
}

impl fmt::Display for Expr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Atom(name) | Self::Macro(name) => f.write_str(name),
            Self::Compare(a, operator, b) => write!(f, "{a} {operator} {b}"),
            Self::Not(inner) => match **inner {
                Self::Atom(_) => write!(f, "!{inner}"),
                _ => write!(f, "!({inner})"),
            },
            Self::And(a, b) => write!(f, "{a} && {b}"),
            Self::Or(a, b) => write!(f, "({a} || {b})"),
        }
    }
}

fn tristate(value: &str) -> u8 {
    match value {
        "y" => 2,
        "m" => 1,
        _ => 0,
    }
}

/// A symbol's value; constants and quoted strings stand for themselves.
fn resolve<'a>(name: &'a str, config: &'a DotConfig) -> &'a str {
    let constant = matches!(name, "y" | "m" | "n")
        || name.starts_with(['"', '\''])
        || name.starts_with(|first: char| first.is_ascii_digit());
    if constant { name } else { config.value(name) }
}

fn compare(a: &str, operator: &str, b: &str) -> bool {
    let plain = |text: &str| text.trim_matches(['"', '\'']).to_owned();
    let (a, b) = (plain(a), plain(b));
    let number = |text: &str| match text.strip_prefix("0x") {
        Some(hex) => i64::from_str_radix(hex, 16).ok(),
        None => text.parse::<i64>().ok(),
    };
    let order = match (number(&a), number(&b)) {
        (Some(a), Some(b)) => a.cmp(&b),
        _ => a.cmp(&b),
    };
    match operator {
        "=" => order.is_eq(),
        "!=" => order.is_ne(),
        "<" => order.is_lt(),
        ">" => order.is_gt(),
        "<=" => order.is_le(),
        _ => order.is_ge(),
    }
}

/// Splits into operators, names, quoted strings and whole macros; `None` for
/// an unclosed one.
fn tokens(text: &str) -> Option<Vec<String>> {
    let mut tokens = Vec::new();
    let mut rest = text.trim_start();
    while !rest.is_empty() && !rest.starts_with('#') {
        let length = token_length(rest)?;
        tokens.push(rest[..length].to_owned());
        rest = rest[length..].trim_start();
    }
    Some(tokens)
}

fn token_length(rest: &str) -> Option<usize> {
    for operator in ["&&", "||", "!=", "<=", ">=", "!", "=", "<", ">", "(", ")"] {
        if rest.starts_with(operator) {
            return Some(operator.len());
        }
    }
    if rest.starts_with("$(") {
        let mut depth = 0;
        for (at, character) in rest.char_indices() {
            match character {
                '(' => depth += 1,
                ')' if depth == 1 => return Some(at + 1),
                ')' => depth -= 1,
                _ => {}
            }
        }
        return None;
    }
    if let Some(quote) = rest
        .chars()
        .next()
        .filter(|first| matches!(first, '"' | '\''))
    {
        return rest[1..].find(quote).map(|end| end + 2);
    }
    let end = rest.find(|c: char| !(c.is_ascii_alphanumeric() || "_-./".contains(c)));
    Some(end.unwrap_or(rest.len())).filter(|length| *length > 0)
}

struct Parser<'a> {
    tokens: &'a [String],
    at: usize,
}

impl Parser<'_> {
    fn eat(&mut self, token: &str) -> bool {
        let hit = self.tokens.get(self.at).is_some_and(|next| next == token);
        self.at += usize::from(hit);
        hit
    }

    fn or(&mut self) -> Option<Expr> {
        let mut left = self.and()?;
        while self.eat("||") {
            left = Expr::Or(Box::new(left), Box::new(self.and()?));
        }
        Some(left)
    }

    fn and(&mut self) -> Option<Expr> {
        let mut left = self.unary()?;
        while self.eat("&&") {
            left = Expr::And(Box::new(left), Box::new(self.unary()?));
        }
        Some(left)
    }

    fn unary(&mut self) -> Option<Expr> {
        if self.eat("!") {
            return Some(Expr::Not(Box::new(self.unary()?)));
        }
        if self.eat("(") {
            let inner = self.or()?;
            return self.eat(")").then_some(inner);
        }
        let atom = self.name()?;
        let operator = self.tokens.get(self.at).cloned();
        match operator.filter(|t| matches!(t.as_str(), "=" | "!=" | "<" | ">" | "<=" | ">=")) {
            Some(operator) => {
                self.at += 1;
                Some(Expr::Compare(atom, operator, self.name()?))
            }
            None if atom.starts_with("$(") => Some(Expr::Macro(atom)),
            None => Some(Expr::Atom(atom)),
        }
    }

    fn name(&mut self) -> Option<String> {
        let token = self.tokens.get(self.at)?.clone();
        let operator = token.starts_with(['&', '|', '!', '=', '<', '>', '(', ')']);
        self.at += 1;
        (!operator).then_some(token)
    }
}

#[cfg(test)]
mod tests {
    use test_case::test_case;

    use super::*;

    fn config() -> DotConfig {
        DotConfig::parse("CONFIG_A=y\nCONFIG_M=m\nCONFIG_GCC_VERSION=120200\nCONFIG_S=\"x\"\n")
    }

    #[test_case("A", 2 ; "set symbol")]
    #[test_case("NONE", 0 ; "unset symbol")]
    #[test_case("M && A", 1 ; "and is the minimum")]
    #[test_case("M || A", 2 ; "or is the maximum")]
    #[test_case("!M", 1 ; "not of a module is a module")]
    #[test_case("!A || NONE", 0 ; "not binds tighter")]
    #[test_case("NONE && NONE || A", 2 ; "and binds tighter than or")]
    #[test_case("NONE && (NONE || A)", 0 ; "parentheses")]
    #[test_case("GCC_VERSION >= 120000", 2 ; "numbers compare as numbers")]
    #[test_case("GCC_VERSION < 90000", 0 ; "number that is not smaller")]
    #[test_case("S = \"x\"", 2 ; "strings compare")]
    #[test_case("M=m && A != n", 2 ; "comparison without blanks")]
    #[test_case("$(cc-option,-fx(y)) && A", 2 ; "macro with parentheses counts as met")]
    #[test_case("A # a comment", 2 ; "comment")]
    fn expressions_evaluate(text: &str, expected: u8) {
        assert_eq!(Expr::parse(text).unwrap().value(&config()), expected);
    }

    #[test_case("" ; "nothing")]
    #[test_case("A &&" ; "missing operand")]
    #[test_case("(A" ; "unclosed parenthesis")]
    #[test_case("A B" ; "two names")]
    #[test_case("$(x" ; "unclosed macro")]
    #[test_case("\"x" ; "unclosed string")]
    fn other_texts_are_refused(text: &str) {
        assert_eq!(Expr::parse(text), None);
    }

    #[test]
    fn unmet_names_the_failing_parts_only() {
        let expr = Expr::parse("A && (X || Y) && !M && !A && Z").unwrap();
        assert_eq!(expr.unmet(&config()), ["(X || Y)", "!A", "Z"]);
    }
}
