// SPDX-License-Identifier: GPL-2.0-only
//! Pure parser of `.config` files and of our fragments, and the comparison of
//! the two: what was wished for and is not there.

use std::collections::BTreeMap;

/// The values of a `.config` by symbol name, without `CONFIG_`. A symbol that
/// is not set is absent; strings keep their quotes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DotConfig(BTreeMap<String, String>);

impl DotConfig {
    /// Parses the text of a `.config`.
    pub fn parse(text: &str) -> Self {
        let set = text.lines().filter_map(|line| {
            let (name, value) = line.strip_prefix("CONFIG_")?.split_once('=')?;
            Some((name.to_owned(), value.to_owned()))
        });
        Self(set.collect())
    }

    /// The value of a symbol; `n` when it is not set.
    pub fn value(&self, symbol: &str) -> &str {
        self.0.get(symbol).map_or("n", String::as_str)
    }
}

/// A line of a fragment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wish {
    /// The symbol without `CONFIG_`.
    pub symbol: String,
    /// The value as in `.config`; `n` for "not set".
    pub value: String,
    /// Whether the final configuration may lack it.
    pub optional: bool,
}

/// What became of a wish that was not fulfilled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lost {
    /// The wish.
    pub wish: Wish,
    /// The value that the configuration has instead.
    pub actual: String,
}

/// Parses fragments in order; where two set the same symbol, the later counts,
/// as in `merge_config.sh`.
pub fn parse_fragments<'a>(texts: impl IntoIterator<Item = &'a str>) -> Vec<Wish> {
    let mut wishes: Vec<Wish> = Vec::new();
    for wish in texts
        .into_iter()
        .flat_map(str::lines)
        .filter_map(parse_wish)
    {
        wishes.retain(|earlier| earlier.symbol != wish.symbol);
        wishes.push(wish);
    }
    wishes
}

fn parse_wish(line: &str) -> Option<Wish> {
    let unset = line
        .strip_prefix("# CONFIG_")
        .and_then(|rest| rest.strip_suffix(" is not set"));
    if let Some(symbol) = unset {
        return Some(Wish {
            symbol: symbol.to_owned(),
            value: "n".to_owned(),
            optional: false,
        });
    }
    let (symbol, rest) = line.strip_prefix("CONFIG_")?.split_once('=')?;
    let (value, optional) = match rest.split_once('#') {
        Some((value, note)) => (value, note.trim() == "optional"),
        None => (rest, false),
    };
    Some(Wish {
        symbol: symbol.to_owned(),
        value: value.trim().to_owned(),
        optional,
    })
}

/// The text that `merge_config.sh` gets.
pub fn merged_fragment(wishes: &[Wish]) -> String {
    let line = |wish: &Wish| match wish.value.as_str() {
        "n" => format!("# CONFIG_{} is not set\n", wish.symbol),
        value => format!("CONFIG_{}={value}\n", wish.symbol),
    };
    wishes.iter().map(line).collect()
}

/// The wishes that the configuration does not fulfil, optional ones too. What
/// was wished as a module and is built in is fulfilled.
pub fn lost(wishes: &[Wish], config: &DotConfig) -> Vec<Lost> {
    let unfulfilled = |wish: &&Wish| {
        let actual = config.value(&wish.symbol);
        actual != wish.value && !(wish.value == "m" && actual == "y")
    };
    let lose = |wish: &Wish| Lost {
        wish: wish.clone(),
        actual: config.value(&wish.symbol).to_owned(),
    };
    wishes.iter().filter(unfulfilled).map(lose).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONFIG: &str = "#\n# Automatically generated file; DO NOT EDIT.\n#\n\
        CONFIG_CC_IS_GCC=y\nCONFIG_GCC_VERSION=120200\nCONFIG_NET=y\n# CONFIG_KASAN is not set\n\
        CONFIG_LOCALVERSION=\"-x=y\"\nCONFIG_TEST_HMM=m\n";

    #[test]
    fn values_are_read_and_absent_ones_are_off() {
        let config = DotConfig::parse(CONFIG);
        assert_eq!(config.value("NET"), "y");
        assert_eq!(config.value("KASAN"), "n");
        assert_eq!(config.value("NO_SUCH"), "n");
        assert_eq!(config.value("LOCALVERSION"), "\"-x=y\"");
    }

    #[test]
    fn later_fragment_wins_and_optional_is_noticed() {
        let wishes = parse_fragments([
            "# a comment\nCONFIG_A=y\nCONFIG_B=y # optional\n",
            "CONFIG_A=n\n# CONFIG_C is not set\nCONFIG_D=\"a b\"\n",
        ]);
        let short: Vec<_> = wishes
            .iter()
            .map(|w| (w.symbol.as_str(), w.value.as_str(), w.optional))
            .collect();
        let expected = [
            ("B", "y", true),
            ("A", "n", false),
            ("C", "n", false),
            ("D", "\"a b\"", false),
        ];
        assert_eq!(short, expected);
        let text = merged_fragment(&wishes);
        assert_eq!(
            text,
            "CONFIG_B=y\n# CONFIG_A is not set\n# CONFIG_C is not set\nCONFIG_D=\"a b\"\n"
        );
    }

    #[test]
    fn wishes_that_did_not_survive_are_reported_with_what_is_there() {
        let wishes = parse_fragments(["CONFIG_NET=n\nCONFIG_KASAN=y\nCONFIG_GCC_VERSION=120200\n"]);
        let lost = lost(&wishes, &DotConfig::parse(CONFIG));
        let short: Vec<_> = lost
            .iter()
            .map(|l| (l.wish.symbol.as_str(), l.actual.as_str()))
            .collect();
        assert_eq!(short, [("NET", "y"), ("KASAN", "n")]);
    }

    #[test]
    fn built_in_fulfils_the_wish_for_a_module_but_not_the_reverse() {
        let config = DotConfig::parse(CONFIG);
        assert!(lost(&parse_fragments(["CONFIG_NET=m\n"]), &config).is_empty());
        assert_eq!(
            lost(&parse_fragments(["CONFIG_TEST_HMM=y\n"]), &config)[0].actual,
            "m"
        );
    }
}
