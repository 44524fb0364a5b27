//! `--help` of every command, pinned as snapshots in `tests/it/help`, and `.env.example`, which repeats its texts.
//!
//! After an intended change of a help text run `INSTA_UPDATE=always cargo test --test it help::`, and review the changed snapshots.

use std::{collections::BTreeSet, fmt::Write, fs, path::Path};

use clap::{Arg, Command, CommandFactory};
use thorax::{cli::Cli, config::RENAMED_VARIABLES};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

#[test]
fn help_of_every_command_matches_its_snapshot() {
    let mut names = BTreeSet::new();
    insta::with_settings!({ snapshot_path => "help", prepend_module_to_snapshot => false, omit_expression => true }, {
        for (name, help) in help_texts() {
            insta::assert_snapshot!(name.clone(), help);
            names.insert(format!("{name}.snap"));
        }
    });
    let folder = fs::read_dir(Path::new(ROOT).join("tests/it/help")).unwrap();
    let files: BTreeSet<String> = folder.map(|file| file.unwrap().file_name().into_string().unwrap()).collect();
    assert_eq!(files, names, "left: files in tests/it/help; right: commands");
}

#[test]
fn every_option_has_a_help_text_and_every_command_a_summary() {
    for command in commands(&command()) {
        let name = command.get_bin_name().unwrap_or("thorax").to_owned();
        assert!(command.get_about().is_some(), "{name} has no summary");
        for arg in command.get_arguments() {
            assert!(arg.get_help().is_some(), "{name}: {} has no help", arg.get_id());
        }
    }
}

#[test]
fn env_example_repeats_the_help_texts_and_defaults() {
    let expected = env_example();
    if std::env::var("INSTA_UPDATE").as_deref() == Ok("always") {
        fs::write(Path::new(ROOT).join(".env.example"), &expected).unwrap();
    }
    let file = fs::read_to_string(Path::new(ROOT).join(".env.example")).unwrap();
    assert_eq!(file, expected, "left: .env.example; right: the help texts");
}

/// The command line, without the values that variables have in the environment of the test.
fn command() -> Command {
    let mut command = hide_env_values(Cli::command().term_width(100));
    command.build();
    command
}

fn hide_env_values(command: Command) -> Command {
    let command = command.mut_args(|arg| arg.hide_env_values(true));
    command.mut_subcommands(|command| hide_env_values(command.term_width(100)))
}

/// A command and its subcommands at every depth, except hidden ones and `help`.
fn commands(command: &Command) -> Vec<Command> {
    let subcommands =
        command.get_subcommands().filter(|command| !command.is_hide_set() && command.get_name() != "help");
    std::iter::once(command.clone()).chain(subcommands.flat_map(commands)).collect()
}

/// The help text of every command, with a file name such as `thorax-dataset-check`.
fn help_texts() -> Vec<(String, String)> {
    let text = |mut command: Command| {
        let name = command.get_bin_name().unwrap_or("thorax").replace(' ', "-");
        (name, command.render_long_help().to_string())
    };
    commands(&command()).into_iter().map(text).collect()
}

/// The text of `.env.example`: variables by heading, in the order of `thorax --help`.
fn env_example() -> String {
    let command = command();
    let mut text =
        "# Environment variables of thorax with their default values. Each one is also a flag: THORAX_DATA_DIR is\n\
                    # --data-dir. Variables that have no default value are commented out.\n"
            .to_owned();
    let mut heading = "";
    for arg in command.get_arguments().filter(|arg| arg.get_env().is_some()) {
        let arg_heading = arg.get_help_heading().unwrap_or("Options");
        if arg_heading != heading {
            heading = arg_heading;
            write!(text, "\n\n## {heading}\n").unwrap();
        }
        write!(text, "\n{}{}\n", comment(arg), assignment(arg)).unwrap();
    }
    text += "\n\n## Deprecated names\n\n";
    for variable in RENAMED_VARIABLES {
        writeln!(text, "# {}: use {}.", variable.old, variable.new).unwrap();
    }
    text
}

fn comment(arg: &Arg) -> String {
    let mut help = arg.get_long_help().or(arg.get_help()).expect("a help text").to_string();
    // clap removes the full stop from the end of a single paragraph.
    if !help.ends_with(['.', ']']) {
        help.push('.');
    }
    let paragraphs = help.split("\n\n").map(|paragraph| wrap(paragraph, 118));
    paragraphs.collect::<Vec<_>>().join("#\n")
}

fn assignment(arg: &Arg) -> String {
    let name = arg.get_env().expect("a variable").to_str().unwrap();
    match arg.get_default_values() {
        [default] => format!("{name}={}", default.to_str().unwrap()),
        _ => format!("#{name}={}", arg.get_value_names().expect("a value name")[0]),
    }
}

/// Comment lines of at most `width` characters.
fn wrap(paragraph: &str, width: usize) -> String {
    let (mut text, mut line) = (String::new(), "#".to_owned());
    for word in paragraph.split_whitespace() {
        if line.chars().count() + 1 + word.chars().count() > width {
            text += &(std::mem::replace(&mut line, "#".into()) + "\n");
        }
        line = line + " " + word;
    }
    text + &line + "\n"
}
