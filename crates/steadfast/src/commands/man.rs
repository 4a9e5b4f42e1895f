//! `steadfast man`: manual pages, made from the definition of the command line.

use std::path::Path;

use clap::CommandFactory as _;
use clap_mangen::Man;

use crate::cli::Cli;
use crate::failure::{Exit, Failure, Outcome};
use crate::medium::Medium;
use crate::output::Output;

pub(super) fn run(command: Option<&str>, dir: Option<&Path>, medium: &Medium, output: &Output) -> Outcome {
    let mut cli = Cli::command();
    cli.build();
    if let Some(dir) = dir {
        return write_all(&cli, dir, medium, output);
    }
    let page = match command {
        None => page(&cli)?,
        Some(name) => {
            // `log-check` is the page of `log check`, as its file is called.
            let found = commands(&cli).into_iter().find(|(page, _)| page == &format!("steadfast-{name}"));
            let (_, found) = found.ok_or_else(|| Failure::Usage {
                message: format!("there is no command `{name}`"),
                hint: Some("`steadfast --help` lists them; `log check` is `log-check` here".to_owned()),
            })?;
            page(found)?
        }
    };
    output.data(&page)?;
    Ok(Exit::Ok)
}

/// All commands below this one, with the names of their pages.
fn commands(cli: &clap::Command) -> Vec<(String, &clap::Command)> {
    let mut due: Vec<&clap::Command> = vec![cli];
    let mut found = Vec::new();
    while let Some(parent) = due.pop() {
        for command in parent.get_subcommands().filter(|command| command.get_name() != "help") {
            let name = command.get_display_name().unwrap_or_else(|| command.get_name());
            found.push((name.to_owned(), command));
            due.push(command);
        }
    }
    found
}

fn page(command: &clap::Command) -> Outcome<Vec<u8>> {
    let mut page = Vec::new();
    Man::new(command.clone()).render(&mut page).map_err(|e| Failure::stream("rendering the page", e))?;
    Ok(page)
}

fn write_all(cli: &clap::Command, dir: &Path, medium: &Medium, output: &Output) -> Outcome {
    let dir = medium.open_or_create(dir)?;
    let mut bulk = dir.bulk();
    bulk.replace("steadfast.1", &page(cli)?);
    for (name, command) in commands(cli) {
        bulk.replace(format!("{name}.1"), &page(command)?);
    }
    let report = bulk.publish_all().all_published()?;
    output.say(format_args!("wrote {} pages into `{}`", report.published, dir.path().display()))?;
    Ok(Exit::Ok)
}
