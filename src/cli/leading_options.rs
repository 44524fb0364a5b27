//! Options before the subcommand, as in `thorax --data-dir FOLDER train`. clap accepts them there for `thorax` itself, which is `thorax
//! serve`; for other commands they are moved behind the subcommand. So a command accepts its options in either place, and an option that it
//! does not have is refused as usual.

use std::ffi::OsString;

use clap::{Arg, ArgAction, Command};

/// The command line with the options before a subcommand moved behind the last argument. Unchanged without a subcommand, if one of the
/// options is not known, and for help and version.
pub(super) fn moved_behind_subcommand(command: &Command, arguments: Vec<OsString>) -> Vec<OsString> {
    let Some(at) = subcommand(command, &arguments) else { return arguments };
    let mut moved = arguments;
    let options: Vec<OsString> = moved.drain(1..at).collect();
    let end = moved.iter().position(|argument| argument == "--").unwrap_or(moved.len());
    moved.splice(end..end, options);
    moved
}

/// Position of the subcommand, if there are only options before it.
fn subcommand(command: &Command, arguments: &[OsString]) -> Option<usize> {
    let mut at = 1;
    loop {
        let text = arguments.get(at)?.to_str()?;
        let Some(option) = text.strip_prefix("--").filter(|option| !option.is_empty()) else {
            return command.find_subcommand(text).map(|_| at);
        };
        let (name, has_value) = option.split_once('=').map_or((option, false), |(name, _)| (name, true));
        let known = command.get_arguments().find(|argument| is_named(argument, name))?;
        if matches!(known.get_action(), ArgAction::Help | ArgAction::Version) {
            return None;
        }
        at += if known.get_action().takes_values() && !has_value { 2 } else { 1 };
    }
}

fn is_named(argument: &Arg, name: &str) -> bool {
    argument.get_long() == Some(name) || argument.get_all_aliases().is_some_and(|aliases| aliases.contains(&name))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;
    use crate::cli::Cli;

    fn moved(line: &str) -> String {
        let arguments = line.split(' ').map(OsString::from).collect();
        let moved = moved_behind_subcommand(&Cli::command(), arguments);
        moved.iter().map(|part| part.to_str().unwrap()).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn options_before_a_subcommand_are_moved_behind_its_arguments() {
        let options = "--data-dir folder --log=debug --keep-file-names --log-format json";
        assert_eq!(
            moved(&format!("thorax {options} train --dataset a")),
            format!("thorax train --dataset a {options}")
        );
        assert_eq!(moved("thorax --log debug dataset split a"), "thorax dataset split a --log debug");
    }

    #[test]
    fn other_command_lines_stay_as_they_are() {
        for line in [
            "thorax",
            "thorax --data-dir train",
            "thorax train --log debug",
            "thorax --unknown x train",
            "thorax --help train",
        ] {
            assert_eq!(moved(line), line);
        }
    }
}
