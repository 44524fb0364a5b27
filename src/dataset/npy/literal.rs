//! The dictionary in the header of NumPy's array files, as Python writes it:
//! `{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }`.

use super::MOST_AXES;

/// What the dictionary says.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Told {
    /// None where it is a list of fields.
    pub(super) descr: Option<String>,
    pub(super) fortran_order: bool,
    pub(super) shape: Vec<u64>,
}

/// Reads it, with the spaces that fill it up; the error says what is wrong.
pub(super) fn read(text: &str) -> Result<Told, String> {
    let mut reader = Reader { rest: text };
    let (mut descr, mut fortran_order, mut shape) = (None, None, None);
    reader.expect('{')?;
    while !reader.take('}') {
        let key = reader.text()?;
        reader.expect(':')?;
        let twice = match key.as_str() {
            // What follows a list of fields is not read: no such array is.
            "descr" if reader.take('[') => {
                return Ok(Told { descr: None, fortran_order: false, shape: Vec::new() });
            }
            "descr" => descr.replace(reader.text()?).is_some(),
            "fortran_order" => fortran_order.replace(reader.boolean()?).is_some(),
            "shape" => shape.replace(reader.axes()?).is_some(),
            other => return Err(format!("it has an entry {other:?}")),
        };
        if twice {
            return Err(format!("it has {key:?} twice"));
        }
        if !reader.take(',') {
            reader.expect('}')?;
            break;
        }
    }
    if !reader.rest.trim().is_empty() {
        return Err("something follows the dictionary".into());
    }
    let missing = |what: &str| format!("it has no {what:?}");
    Ok(Told {
        descr: Some(descr.ok_or_else(|| missing("descr"))?),
        fortran_order: fortran_order.ok_or_else(|| missing("fortran_order"))?,
        shape: shape.ok_or_else(|| missing("shape"))?,
    })
}

struct Reader<'a> {
    rest: &'a str,
}

impl Reader<'_> {
    /// Passes over spaces and then over `sign`, if it is next.
    fn take(&mut self, sign: char) -> bool {
        self.rest = self.rest.trim_start();
        let after = self.rest.strip_prefix(sign);
        self.rest = after.unwrap_or(self.rest);
        after.is_some()
    }

    fn expect(&mut self, sign: char) -> Result<(), String> {
        if self.take(sign) { Ok(()) } else { Err(format!("{sign:?} is missing")) }
    }

    fn text(&mut self) -> Result<String, String> {
        let quote = if self.take('\'') { '\'' } else { '"' };
        if quote == '"' {
            self.expect('"')?;
        }
        let (text, rest) = self.rest.split_once(quote).ok_or("a text does not end")?;
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
        Err("fortran_order is neither True nor False".into())
    }

    fn axes(&mut self) -> Result<Vec<u64>, String> {
        let mut axes = Vec::new();
        self.expect('(')?;
        while !self.take(')') {
            axes.push(self.number()?);
            if axes.len() > MOST_AXES {
                return Err(format!("it has more than {MOST_AXES} axes"));
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
        // Python 2 wrote long numbers with an L.
        self.rest = rest.strip_prefix('L').unwrap_or(rest);
        digits.parse().map_err(|_| "an axis is no number".to_owned())
    }
}
