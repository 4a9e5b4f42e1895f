//! `cargo xtask barriers`: which barrier protects what, as the simulator sees it.

use std::io::Write as _;
use std::process::ExitCode;

use crash_cases::{
    BarrierSite, CaseOn, OnSim, barrier_sites, case_named, disk_barrier_sites, state_case_named,
};
use crashsim::{DiskProfile, Explorer, Failure, FileProfile, Medium, Options, SimDisk, SimFs, shrink};

/// Prints the tables as Markdown on stdout: barriers of files, then of disks.
pub(crate) fn print() -> ExitCode {
    let sites = barrier_sites(FileProfile::POSIX_MIN, &on_files());
    table::<SimFs>(&sites, FileProfile::POSIX_MIN, FileProfile::PREFIX, &on_files(), &|name| {
        let case: Box<dyn CaseOn<SimFs>> = Box::new(OnSim(case_named(name)?));
        Some(case)
    });
    line("");
    let sites = disk_barrier_sites(DiskProfile::AnySubsetTorn, &on_disks());
    let (strict, prefix) = (DiskProfile::AnySubsetTorn, DiskProfile::OrderedPrefix);
    table::<SimDisk>(&sites, strict, prefix, &on_disks(), &state_case_named);
    ExitCode::SUCCESS
}

/// Enough for every state of a small case.
fn on_files() -> Options {
    Options { states_max: 4096, depth: 0, kills: false, ..Options::default() }
}

/// Some barriers are there for the recovery from a recovery.
fn on_disks() -> Options {
    Options { states_max: 48, depth: 1, nested_states_max: 4, kills: false, ..Options::default() }
}

/// The case of a name.
type Named<'n, M> = &'n dyn Fn(&str) -> Option<Box<dyn CaseOn<M>>>;

fn table<M: Medium>(
    sites: &[BarrierSite],
    profile: M::Profile,
    prefix: M::Profile,
    options: &Options,
    named: Named<'_, M>,
) {
    line("| asked for by | cases | without it | if it comes late |");
    line("|---|---|---|---|");
    let mut total = Total { found: 0, by_prefix: 0, prefix, options, named };
    for site in sites {
        let gone = total.cell(site.gone());
        let late = total.cell(site.late());
        let count = format!("{} of {}", site.gone().count(), site.mutated.len());
        line(&format!("| `{}` | {count} | {gone} | {late} |", innermost(site)));
    }
    let unnoticed = sites.iter().filter(|site| site.gone().next().is_none()).count();
    line(&format!(
        "\n{} places ask for a barrier; {} can lose it unnoticed. Of {} mutants that `{}` finds, `{}` finds {}.",
        sites.len(),
        unnoticed,
        total.found,
        M::profile_name(profile),
        M::profile_name(prefix),
        total.by_prefix
    ));
}

/// The innermost functions say enough.
fn innermost(site: &BarrierSite) -> String {
    site.caller.split(" < ").take(3).collect::<Vec<_>>().join(" < ")
}

struct Total<'t, M: Medium> {
    found: usize,
    by_prefix: usize,
    /// The usual model of crash tests, which loses nothing but the end.
    prefix: M::Profile,
    options: &'t Options,
    named: Named<'t, M>,
}

impl<M: Medium> Total<'_, M> {
    fn cell<'f>(&mut self, failures: impl Iterator<Item = &'f Failure>) -> String {
        let Some(failure) = self.smallest(failures) else { return "—".to_owned() };
        self.found += 1;
        let is_found = self.found_by_prefix(&failure);
        self.by_prefix += usize::from(is_found);
        let missed =
            if is_found { String::new() } else { format!(" (`{}` misses it)", M::profile_name(self.prefix)) };
        format!("{}: `{}`{missed}", failure.verdict.class, failure.id)
    }

    /// The shortest id, made as small as it gets.
    fn smallest<'f>(&self, failures: impl Iterator<Item = &'f Failure>) -> Option<Failure> {
        let shortest = failures.min_by_key(|failure| failure.id.to_string().len())?;
        let case = (self.named)(&shortest.id.scenario.case)?;
        Some(Failure { id: shrink::<M>(&*case, &shortest.id, self.options), ..shortest.clone() })
    }

    fn found_by_prefix(&self, failure: &Failure) -> bool {
        let found = || {
            let case = (self.named)(&failure.id.scenario.case)?;
            let recorded = failure.id.scenario.record::<M>(&*case)?;
            Explorer::default().first_failure::<M>(&*case, &recorded, self.prefix, self.options)
        };
        found().is_some()
    }
}

fn line(text: &str) {
    // A reader that has gone has seen enough.
    writeln!(std::io::stdout(), "{text}").unwrap_or_default();
}
