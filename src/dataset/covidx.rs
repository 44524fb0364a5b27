//! The COVIDx split format: `patient-id filename class source`, separated by spaces, one image a line.
//!
//! Published files leave the source out and put spaces into patient ids, so the class is the anchor: the file name
//! is the token before it, the patient id all before that, the source all after it. A patient id of `-` stands for a patient who is not
//! known, which the published files do not need.

use crate::domain::ClassList;

use super::match_class;

/// Stands for the id of a patient who is not known.
const NO_PATIENT: &str = "-";

/// One image of a split file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// From 1.
    pub line: u32,
    /// May hold spaces.
    pub patient_id: Option<String>,
    /// Relative to the folder of the split's images; never absolute, never upwards.
    pub file_name: String,
    /// As the data set spells it.
    pub class: String,
    /// Origin, where the file gives one.
    pub source: Option<String>,
}

/// A line that is not a row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// From 1.
    pub line: u32,
    /// What is wrong with it.
    pub reason: String,
}

/// Reads a whole split file; blank lines are passed over, bad ones become problems.
pub fn parse(text: &str, classes: &ClassList) -> (Vec<Row>, Vec<Problem>) {
    let (mut rows, mut problems) = (Vec::new(), Vec::new());
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    for (line, content) in (1..).zip(text.lines()) {
        match parse_line(line, content, classes) {
            None => {}
            Some(Ok(row)) => rows.push(row),
            Some(Err(reason)) => problems.push(Problem { line, reason }),
        }
    }
    (rows, problems)
}

/// Writes rows as a split file that [`parse`] reads back as the same rows, whatever lines they came from.
///
/// # Errors
/// A row that would come back as another: a space in the file name, say, or a class that is none of `classes`.
pub fn write<'a>(rows: impl IntoIterator<Item = &'a Row>, classes: &ClassList) -> Result<String, Problem> {
    let mut text = String::new();
    for (line, row) in (1..).zip(rows) {
        let patient = row.patient_id.as_deref().unwrap_or(NO_PATIENT);
        let columns = [Some(patient), Some(&row.file_name), Some(&row.class), row.source.as_deref()];
        let content = columns.into_iter().flatten().collect::<Vec<_>>().join(" ");
        let read = parse_line(row.line, &content, classes);
        if !read.is_some_and(|read| read.as_ref() == Ok(row)) || content.contains(['\n', '\r', '\u{feff}']) {
            return Err(Problem { line, reason: format!("{content:?} would not be read back as it is") });
        }
        text.push_str(&content);
        text.push('\n');
    }
    Ok(text)
}

fn parse_line(line: u32, content: &str, classes: &ClassList) -> Option<Result<Row, String>> {
    let tokens: Vec<&str> = content.split_whitespace().collect();
    if tokens.is_empty() {
        return None;
    }
    Some(anchor(&tokens, classes).and_then(|(at, class)| {
        let file_name = tokens[at - 1];
        check_file_name(file_name)?;
        let source = tokens[at + 1..].join(" ");
        Ok(Row {
            line,
            patient_id: Some(tokens[..at - 1].join(" ")).filter(|patient| patient != NO_PATIENT),
            file_name: file_name.to_owned(),
            class: class.to_owned(),
            source: if source.is_empty() { None } else { Some(source) },
        })
    }))
}

/// Position and name of the class token. A patient id or a source may hold a class's name too: the token after an
/// image's name is meant, else the last.
fn anchor<'a>(tokens: &[&str], classes: &'a ClassList) -> Result<(usize, &'a str), String> {
    let candidates = tokens.iter().enumerate().filter_map(|(at, token)| Some((at, match_class(classes, token)?)));
    let candidates: Vec<_> = candidates.collect();
    let usable = || candidates.iter().rev().filter(|(at, _)| *at >= 2);
    if let Some(found) = usable().find(|(at, _)| names_image(tokens[at - 1])).or_else(|| usable().next()) {
        return Ok(*found);
    }
    Err(if candidates.is_empty() {
        format!("no class of this data set on the line (its classes are {})", classes.names().join(", "))
    } else {
        "expected `patient-id filename class source`: patient id or file name is missing".to_owned()
    })
}

fn names_image(token: &str) -> bool {
    let extension = token.rsplit_once('.').map(|(_, extension)| extension.to_ascii_lowercase());
    extension.is_some_and(|extension| ["png", "jpg", "jpeg"].contains(&extension.as_str()))
}

fn check_file_name(name: &str) -> Result<(), String> {
    if name.contains('\u{fffd}') {
        return Err(format!("file name {name:?} is not UTF-8"));
    }
    // Backslashes and drive letters too: the same split file must mean the same on every system.
    let mut parts = name.split(['/', '\\']);
    if parts.clone().any(|part| part == ".") {
        return Err(format!("file name {name:?} names a folder"));
    }
    let upwards = parts.any(|part| part == "..");
    let drive = name.as_bytes().get(1) == Some(&b':');
    if upwards || drive || name.starts_with(['/', '\\']) || name.contains('\0') {
        return Err(format!("file name {name:?} leads out of the folder"));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
