//! Runs of digits with signs between them.

/// Most digits of one run.
const MAX: usize = 20;

/// Digits, and where each stops in the text.
pub(super) struct Run {
    digits: [u8; MAX],
    ends: [usize; MAX],
    /// Length of each group of digits, oldest first.
    groups: [u8; MAX],
    count: usize,
    group_count: usize,
}

impl Run {
    /// Reads at most `most` digits from `at` on, with at most `gap` of `between` from one to the next.
    pub(super) fn read(text: &[u8], at: usize, most: usize, between: &[u8], gap: usize) -> Self {
        let mut run = Self { digits: [0; MAX], ends: [0; MAX], groups: [0; MAX], count: 0, group_count: 0 };
        let (mut at, mut gaps) = (at, 0_usize);
        let mut fresh = true;
        while run.count < most
            && let Some(byte) = text.get(at).copied()
        {
            at = at.saturating_add(1);
            if byte.is_ascii_digit() {
                if !run.push(byte.saturating_sub(b'0'), at, fresh) {
                    break;
                }
                (gaps, fresh) = (0, false);
            } else if between.contains(&byte) && gaps < gap {
                gaps = gaps.saturating_add(1);
                fresh = true;
            } else {
                break;
            }
        }
        run
    }

    fn push(&mut self, digit: u8, end: usize, fresh: bool) -> bool {
        let (Some(place), Some(at)) = (self.digits.get_mut(self.count), self.ends.get_mut(self.count)) else {
            return false;
        };
        (*place, *at) = (digit, end);
        self.count = self.count.saturating_add(1);
        if fresh {
            self.group_count = self.group_count.saturating_add(1);
        }
        if let Some(group) = self.groups.get_mut(self.group_count.saturating_sub(1)) {
            *group = group.saturating_add(1);
        }
        true
    }

    pub(super) fn digits(&self) -> &[u8] {
        self.digits.get(..self.count).unwrap_or_default()
    }

    pub(super) fn groups(&self) -> &[u8] {
        self.groups.get(..self.group_count).unwrap_or_default()
    }

    /// Where the digit before `count` stops.
    pub(super) fn end(&self, count: usize) -> Option<usize> {
        self.ends.get(count.checked_sub(1)?).copied().filter(|_| count <= self.count)
    }
}
