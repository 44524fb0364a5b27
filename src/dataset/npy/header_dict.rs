//! Parser of the dictionary in NumPy headers, a Python literal such as
//! `{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }`.

use super::MAX_AXES;

/// Entries of the dictionary.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct HeaderDict {
    /// Element type; none for a structured array, which has a list of fields.
    pub(super) descr: Option<String>,
    pub(super) fortran_order: bool,
    pub(super) shape: Vec<u64>,
}

/// Parses the dictionary with its padding.
///
/// # Errors
/// Description of the syntax error.
pub(super) fn parse(text: &str) -> Result<HeaderDict, String> {
    let mut parser = Parser { rest: text };
    let (mut descr, mut fortran_order, mut shape) = (None, None, None);
    parser.expect('{')?;
    while !parser.take('}') {
        let key = parser.text()?;
        parser.expect(':')?;
        let duplicate = match key.as_str() {
            // Structured arrays are not supported, so that the rest need not be parsed.
            "descr" if parser.take('[') => {
                return Ok(HeaderDict { descr: None, fortran_order: false, shape: Vec::new() });
            }
            "descr" => descr.replace(parser.text()?).is_some(),
            "fortran_order" => fortran_order.replace(parser.boolean()?).is_some(),
            "shape" => shape.replace(parser.axes()?).is_some(),
            other => return Err(format!("unknown entry {other:?}")),
        };
        if duplicate {
            return Err(format!("entry {key:?} occurs twice"));
        }
        if !parser.take(',') {
            parser.expect('}')?;
            break;
        }
    }
    if !parser.rest.trim().is_empty() {
        return Err("unexpected text follows the dictionary".into());
    }
    let missing = |key: &str| format!("entry {key:?} is missing");
    Ok(HeaderDict {
        descr: Some(descr.ok_or_else(|| missing("descr"))?),
        fortran_order: fortran_order.ok_or_else(|| missing("fortran_order"))?,
        shape: shape.ok_or_else(|| missing("shape"))?,
    })
}

/// Parser state: the unparsed rest of the text.
struct Parser<'a> {
    rest: &'a str,
}

impl Parser<'_> {
    /// Skips whitespace, then consumes `token` if it is next.
    fn take(&mut self, token: char) -> bool {
        self.rest = self.rest.trim_start();
        let after = self.rest.strip_prefix(token);
        self.rest = after.unwrap_or(self.rest);
        after.is_some()
    }

    fn expect(&mut self, token: char) -> Result<(), String> {
        if self.take(token) { Ok(()) } else { Err(format!("expected {token:?}")) }
    }

    fn text(&mut self) -> Result<String, String> {
        let quote = if self.take('\'') { '\'' } else { '"' };
        if quote == '"' {
            self.expect('"')?;
        }
        let (text, rest) = self.rest.split_once(quote).ok_or("unterminated string")?;
        self.rest = rest;
        Ok(text.to_owned())
    }

    fn boolean(&mut self) -> Result<bool, String> {
        self.rest = self.rest.trim_start();
        for (word, value) in [("False", false), ("True", true)] {
            if let Some(rest) = self.rest.strip_prefix(word) {
                self.rest = rest;
                return Ok(value);
            }
        }
        Err("fortran_order must be True or False".into())
    }

    fn axes(&mut self) -> Result<Vec<u64>, String> {
        let mut axes = Vec::new();
        self.expect('(')?;
        while !self.take(')') {
            axes.push(self.number()?);
            if axes.len() > MAX_AXES {
                return Err(format!("the shape must have at most {MAX_AXES} axes"));
            }
            if !self.take(',') {
                self.expect(')')?;
                break;
            }
        }
        Ok(axes)
    }

    fn number(&mut self) -> Result<u64, String> {
        self.rest = self.rest.trim_start();
        let end = self.rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(self.rest.len());
        let (digits, rest) = self.rest.split_at(end);
        // Python 2 writes long integers with the suffix L.
        self.rest = rest.strip_prefix('L').unwrap_or(rest);
        digits.parse().map_err(|_| "the length of an axis must be a number".to_owned())
    }
}
