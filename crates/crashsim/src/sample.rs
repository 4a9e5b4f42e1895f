//! Samples of a crash point whose axes hang together in groups: the sectors of one block, and what may damage it.
//!
//! Chance alone would hardly ever draw the states that break engines: that every one of eight sectors is old, or that one
//! alone is, it draws once in hundreds of times. So what there is to spend goes into three parts: **whole** blocks, every
//! combination if there is room; **tears** of one block, with the others there or gone; and the rest by chance, block by
//! block.

use std::collections::HashSet;

use crate::space::{AxisKind, Digits, Point, Random};

/// One group of axes.
struct Block {
    /// Axis and last version of each of its sectors.
    sectors: Vec<(usize, u32)>,
    damage: Option<Damage>,
}

/// The axis that damages a block.
#[derive(Clone, Copy)]
struct Damage {
    axis: usize,
    choices: u32,
    /// Digits up to this one damage a part of the block, greater ones all of it.
    parts: u32,
}

impl Block {
    fn of<I, P>(point: &Point<I, P>, axes: std::ops::Range<usize>) -> Self {
        let (mut sectors, mut damage) = (Vec::new(), None);
        for index in axes {
            let Some(axis) = point.axes.get(index) else { continue };
            match axis.kind {
                AxisKind::Bit | AxisKind::Slot | AxisKind::Log => sectors.push((index, axis.whole())),
                AxisKind::Junk => {
                    let choices = axis.choices();
                    let whole_from = point.rules.iter().filter(|rule| rule.needs.0 == index);
                    let whole_from = whole_from.map(|rule| rule.needs.1).min().unwrap_or(choices);
                    damage = Some(Damage { axis: index, choices, parts: whole_from.saturating_sub(1) });
                }
            }
        }
        Self { sectors, damage }
    }

    fn last(&self) -> u32 {
        self.sectors.iter().map(|&(_, last)| last).max().unwrap_or(0)
    }

    fn parts(&self) -> u32 {
        self.damage.map_or(0, |damage| damage.parts)
    }

    /// How many choices there are for the block as a whole: old, each version, each damage to all of it.
    fn whole_choices(&self) -> u32 {
        self.last() + 1 + self.damage.map_or(0, |damage| damage.choices - 1 - damage.parts)
    }

    fn put_whole(&self, digits: &mut Digits, choice: u32) {
        for &(axis, last) in &self.sectors {
            put(digits, axis, choice.min(last));
        }
        if let Some(damage) = self.damage {
            let beyond = choice.saturating_sub(self.last());
            put(digits, damage.axis, if beyond > 0 { damage.parts + beyond } else { 0 });
        }
    }

    fn len(&self) -> u32 {
        u32::try_from(self.sectors.len()).unwrap_or(u32::MAX)
    }

    /// How many tears are worth a look: between the newest version and what was there before all of them, and between
    /// the newest two; and each damage to a part, in an old and in a new block.
    fn tears(&self) -> u32 {
        if self.len() < 2 {
            return 0;
        }
        let pairs = if self.last() > 1 { 2 } else { 1 };
        pairs * 4 * self.len() + 2 * self.parts()
    }

    fn put_tear(&self, digits: &mut Digits, tear: u32) {
        let (len, last) = (self.len(), self.last());
        let plain = self.tears() - 2 * self.parts();
        if tear >= plain {
            let damaged = tear - plain;
            self.put_whole(digits, if damaged < self.parts() { last } else { 0 });
            if let Some(damage) = self.damage {
                put(digits, damage.axis, damaged % damage.parts.max(1) + 1);
            }
            return;
        }
        let (old, kind, at) = (tear / (4 * len), tear / len % 4, tear % len);
        let old = if old == 0 { 0 } else { last - 1 };
        self.put_whole(digits, last);
        for (index, &(axis, _)) in (0..).zip(&self.sectors) {
            // A first part is new, a last part is new, one is old, one is new.
            let is_new = match kind {
                0 => index < at,
                1 => index >= at,
                2 => index != at,
                _ => index == at,
            };
            put(digits, axis, if is_new { last } else { old });
        }
    }

    fn put_by_chance(&self, digits: &mut Digits, random: &mut Random) {
        match random.below(8) {
            0..=2 if self.tears() > 0 => self.put_tear(digits, random.below(self.tears())),
            3..=5 if self.tears() > 0 => {
                let likely = random.below(9);
                for &(axis, last) in &self.sectors {
                    let is_new = random.below(8) < likely;
                    put(digits, axis, if is_new { last } else { random.below(last + 1) });
                }
                if let Some(damage) = self.damage
                    && random.below(8) == 0
                {
                    put(digits, damage.axis, random.below(damage.parts + 1));
                }
            }
            _ => self.put_whole(digits, random.below(self.whole_choices())),
        }
    }
}

fn put(digits: &mut Digits, axis: usize, digit: u32) {
    if let Some(slot) = digits.get_mut(axis) {
        *slot = digit;
    }
}

/// `count` of the numbers below `total`, evenly spread; all of them where there are no more.
fn spread(total: u64, count: usize) -> impl Iterator<Item = u64> {
    let count = u64::try_from(count).unwrap_or(u64::MAX).min(total);
    (0..count).map(move |index| {
        let at = u128::from(index) * u128::from(total) / u128::from(count.max(1));
        u64::try_from(at).unwrap_or(u64::MAX)
    })
}

impl<I, P> Point<I, P> {
    /// At most `count` permitted states, each once, the same ones every time. Axes that are in no group are all there or
    /// all gone.
    pub(crate) fn sample_groups(&self, count: usize, seed: u64) -> Vec<Digits> {
        let blocks: Vec<Block> = self.groups.iter().map(|axes| Block::of(self, axes.clone())).collect();
        let mut random = Random::new(seed);
        let mut states = vec![self.everything_kept(), self.nothing_kept()];
        self.whole_blocks(&blocks, count / 2, &mut random, &mut states);
        let tears_max = count.saturating_sub(states.len()) * 2 / 3;
        self.torn_blocks(&blocks, tears_max, &mut states);
        // Chance repeats itself where there is little to choose from; the bound ends it.
        let chances = count.saturating_sub(states.len()).saturating_mul(4);
        let mut known = HashSet::new();
        states.retain(|digits| self.permits(digits) && known.insert(digits.clone()));
        for _ in 0..chances {
            if states.len() >= count {
                break;
            }
            let digits = self.blocks_by_chance(&blocks, &mut random);
            if self.permits(&digits) && known.insert(digits.clone()) {
                states.push(digits);
            }
        }
        states.truncate(count);
        states
    }

    fn whole_blocks(&self, blocks: &[Block], count: usize, random: &mut Random, states: &mut Vec<Digits>) {
        let choices = |block: &Block| u64::from(block.whole_choices());
        let all = blocks.iter().fold(1, |product: u64, block| product.saturating_mul(choices(block)));
        if all <= u64::try_from(count).unwrap_or(u64::MAX) {
            for mut number in 0..all {
                let mut digits = self.nothing_kept();
                for block in blocks {
                    let choice = u32::try_from(number % choices(block)).unwrap_or(0);
                    number /= choices(block);
                    block.put_whole(&mut digits, choice);
                }
                states.push(digits);
            }
            return;
        }
        // One block differs from all others, and from there on any mixture.
        for (block, choice, background) in self.one_of(blocks, count / 2, Block::whole_choices) {
            let mut digits = background;
            block.put_whole(&mut digits, choice);
            states.push(digits);
        }
        while states.len() < count {
            let mut digits = self.nothing_kept();
            let likely = random.below(9);
            for block in blocks {
                let is_new = random.below(8) < likely;
                let choice = if is_new { block.last() } else { random.below(block.whole_choices()) };
                block.put_whole(&mut digits, choice);
            }
            states.push(digits);
        }
    }

    fn torn_blocks(&self, blocks: &[Block], count: usize, states: &mut Vec<Digits>) {
        for (block, tear, background) in self.one_of(blocks, count, Block::tears) {
            let mut digits = background;
            block.put_tear(&mut digits, tear);
            states.push(digits);
        }
    }

    /// Up to `count` of: a block, one of its choices, and a state in which all others are there or gone.
    fn one_of<'b>(
        &self,
        blocks: &'b [Block],
        count: usize,
        choices: fn(&Block) -> u32,
    ) -> Vec<(&'b Block, u32, Digits)> {
        let total: u64 = blocks.iter().map(|block| 2 * u64::from(choices(block))).sum();
        let pick = |mut number: u64| {
            for block in blocks {
                let here = 2 * u64::from(choices(block));
                if number < here {
                    let background =
                        if number.is_multiple_of(2) { self.everything_kept() } else { self.nothing_kept() };
                    return Some((block, u32::try_from(number / 2).unwrap_or(0), background));
                }
                number -= here;
            }
            None
        };
        spread(total, count).filter_map(pick).collect()
    }

    fn blocks_by_chance(&self, blocks: &[Block], random: &mut Random) -> Digits {
        let likely = 1 + random.below(8);
        let mut digits = if random.below(2) == 0 { self.everything_kept() } else { self.nothing_kept() };
        for block in blocks {
            if random.below(8) < likely {
                block.put_by_chance(&mut digits, random);
            }
        }
        digits
    }
}
