//! [`AnyCase`]: a case on whichever medium, with everything this command does with it.

use crash_cases::{CaseOn, OnSim};
use crashsim::{
    Campaign, CrashId, Event, Explorer, Failure, Gauge, Medium, Options, ReplayError, Row, Scenario, SimDisk,
    SimFs, Story, in_words,
};

/// A profile of one of the media.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Profile {
    pub(super) name: &'static str,
    pub(super) evidence: &'static str,
    /// Of which medium.
    pub(super) medium: &'static str,
    pub(super) when: When,
}

/// When a profile is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum When {
    /// Where nothing else is asked for.
    ByDefault,
    /// Where all of them are.
    Among,
    /// Where it is named.
    Named,
}

/// A case, and all that depends on its medium.
pub(super) trait AnyCase: Send + Sync {
    fn name(&self) -> &str;
    fn about(&self) -> &str;
    /// Those of its medium.
    fn profiles(&self) -> Vec<Profile>;
    /// All that is planned, under profiles of its medium.
    fn campaign(
        &self,
        explorer: &Explorer,
        campaign: &Campaign<Profile>,
        gauge: &Gauge,
        each: &mut dyn FnMut(&Row<Profile>),
    );
    /// The first broken promise of the plain run under a profile of its medium.
    fn first_failure(&self, profile: &str, options: &Options) -> Option<Failure>;
    fn replay(&self, id: &CrashId) -> Result<Story, ReplayError>;
    /// The same failure, smaller.
    fn shrunk(&self, id: &CrashId, options: &Options) -> CrashId;
    /// Where the power may fail in the run of an id.
    fn points(&self, id: &CrashId) -> Option<Vec<usize>>;
    /// The run of a seed, line by line. A case that is always the same has but one.
    fn told(&self, seed: u64) -> Option<(Scenario, Vec<String>)>;
}

/// A mistake that must be found.
pub(super) struct AnyCanary {
    pub(super) case: Box<dyn AnyCase>,
    /// Where it was seen to break on real file systems.
    pub(super) seen: Option<&'static str>,
}

/// Every case, those of files first.
pub(super) fn cases() -> Vec<Box<dyn AnyCase>> {
    let files = crash_cases::cases().into_iter().map(|case| any::<SimFs>(Box::new(OnSim(case))));
    files.chain(crash_cases::state_cases().into_iter().map(any)).collect()
}

/// Every canary, those of files first.
pub(super) fn canaries() -> Vec<AnyCanary> {
    let files = crash_cases::canaries().into_iter().map(|canary| {
        let seen = Some(canary.seen());
        AnyCanary { case: any::<SimFs>(Box::new(OnSim(Box::new(canary)))), seen }
    });
    let disks = crash_cases::disk_canaries().into_iter();
    let disks = disks.map(|canary| AnyCanary { case: any::<SimDisk>(Box::new(canary)), seen: None });
    files.chain(disks).collect()
}

/// Every profile, those of files first.
pub(super) fn profiles() -> Vec<Profile> {
    profiles_of::<SimFs>().chain(profiles_of::<SimDisk>()).collect()
}

fn any<M: Medium>(case: Box<dyn CaseOn<M>>) -> Box<dyn AnyCase> {
    Box::new(case)
}

fn profiles_of<M: Medium>() -> impl Iterator<Item = Profile> {
    let usual = M::PROFILES.iter().map(|profile| {
        let is_default = M::PROFILES_DEFAULT.contains(profile);
        card::<M>(*profile, if is_default { When::ByDefault } else { When::Among })
    });
    usual.chain(M::PROFILES_BESIDE.iter().map(|profile| card::<M>(*profile, When::Named)))
}

fn card<M: Medium>(profile: M::Profile, when: When) -> Profile {
    Profile { name: M::profile_name(profile), evidence: M::profile_evidence(profile), medium: M::NAME, when }
}

impl<M: Medium> AnyCase for Box<dyn CaseOn<M>> {
    fn name(&self) -> &str {
        (**self).name()
    }

    fn about(&self) -> &str {
        (**self).about()
    }

    fn profiles(&self) -> Vec<Profile> {
        profiles_of::<M>().collect()
    }

    fn campaign(
        &self,
        explorer: &Explorer,
        campaign: &Campaign<Profile>,
        gauge: &Gauge,
        each: &mut dyn FnMut(&Row<Profile>),
    ) {
        for &profile in &campaign.profiles {
            let Some(named) = M::profile_named(profile.name) else { continue };
            let here = Campaign {
                profiles: vec![named],
                options: campaign.options.clone(),
                faults: campaign.faults.clone(),
                budget: campaign.budget,
                seeds_max: campaign.seeds_max,
            };
            let rows = here.run::<M>(explorer, &**self, gauge, |_| {});
            for Row { runs, cut_short, report, .. } in rows {
                each(&Row { profile, runs, cut_short, report });
            }
            if gauge.stop.load(std::sync::atomic::Ordering::Relaxed) {
                return;
            }
        }
    }

    fn first_failure(&self, profile: &str, options: &Options) -> Option<Failure> {
        let recorded = Scenario::plain((**self).name()).record::<M>(&**self)?;
        Explorer::default().first_failure::<M>(&**self, &recorded, M::profile_named(profile)?, options)
    }

    fn replay(&self, id: &CrashId) -> Result<Story, ReplayError> {
        crashsim::replay::<M>(&**self, id)
    }

    fn shrunk(&self, id: &CrashId, options: &Options) -> CrashId {
        crashsim::shrink::<M>(&**self, id, options)
    }

    fn points(&self, id: &CrashId) -> Option<Vec<usize>> {
        let profile = M::profile_named(&id.profile)?;
        let recorded = id.scenario.record::<M>(&**self)?;
        let points = M::points(&recorded.start, &recorded.trace, profile);
        Some(points.iter().map(|point| point.at).collect())
    }

    fn told(&self, seed: u64) -> Option<(Scenario, Vec<String>)> {
        let seed = if self.operations(seed) > 0 { seed } else { 0 };
        let scenario = Scenario { seed, ..Scenario::plain((**self).name()) };
        let recorded = scenario.record::<M>(&**self)?;
        let words = in_words::<M>(&recorded.start, &recorded.trace).into_iter();
        let line = |(record, words): (&crashsim::Record<M::Op>, String)| match record.event {
            Event::Op(_) => words,
            Event::Mark(_) => format!("-- {words}"),
        };
        let lines = recorded.trace.records().iter().zip(words).map(line).collect();
        Some((scenario, lines))
    }
}
