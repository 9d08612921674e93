//! What is outstanding: ranges of the stream, each with the time of its last transmission and its fate.

use std::collections::VecDeque;

use super::time::Time;

/// More ranges than this are not kept, however large the window.
const MAX_RECORDS: usize = 16_384;

/// Packets are taken for at least this size when the number of ranges is limited.
const MIN_PIECE: u64 = 216;

/// The fate of a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// On its way, as far as is known.
    Out,
    /// The peer has it, beyond a gap.
    Sacked,
    /// It has to be sent again.
    Lost,
}

/// A range whose bytes were last sent together.
#[derive(Clone, Copy, Debug)]
pub(super) struct Record {
    pub(super) start: u64,
    pub(super) end: u64,
    pub(super) sent: Time,
    /// How often it was sent.
    pub(super) transmissions: u8,
    pub(super) state: State,
}

impl Record {
    pub(super) fn len(&self) -> u64 {
        self.end - self.start
    }
}

/// The records between what is acknowledged and what was sent, without a gap, and their sums.
#[derive(Debug, Default)]
pub(super) struct Scoreboard {
    records: VecDeque<Record>,
    unacknowledged: u64,
    next: u64,
    out: u64,
    sacked: u64,
    lost: u64,
    /// No lost record starts before it.
    lost_from: u64,
}

/// What [`Scoreboard::lose`] found.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Losses {
    pub(super) bytes: u64,
    /// Some of it had been sent more than once.
    pub(super) again: bool,
}

impl Scoreboard {
    pub(super) fn unacknowledged(&self) -> u64 {
        self.unacknowledged
    }

    pub(super) fn next(&self) -> u64 {
        self.next
    }

    pub(super) fn out(&self) -> u64 {
        self.out
    }

    pub(super) fn sacked(&self) -> u64 {
        self.sacked
    }

    pub(super) fn lost(&self) -> u64 {
        self.lost
    }

    pub(super) fn is_empty(&self) -> bool {
        self.next == self.unacknowledged
    }

    pub(super) fn front(&self) -> Option<&Record> {
        self.records.front()
    }

    /// Takes note that new data up to `end` was sent.
    pub(super) fn push(&mut self, end: u64, sent: Time) {
        let start = self.next;
        self.records.push_back(Record { start, end, sent, transmissions: 1, state: State::Out });
        self.next = end;
        self.out += end - start;
    }

    /// Forgets what lies before `to`; `each` sees what was not known to have arrived.
    pub(super) fn acknowledge(&mut self, to: u64, mut each: impl FnMut(&Record)) {
        while let Some(front) = self.records.front_mut().filter(|front| front.start < to) {
            let mut part = *front;
            if front.end <= to {
                self.records.pop_front();
            } else {
                part.end = to;
                front.start = to;
            }
            *self.sum(part.state) -= part.len();
            if part.state != State::Sacked {
                each(&part);
            }
        }
        self.unacknowledged = to;
        if self.records.is_empty() && self.records.capacity() > 64 {
            self.records = VecDeque::new();
        }
    }

    /// Marks a range as arrived; `each` sees what was not known to have. Edges that would cut more ranges than
    /// packets of `mss` bytes can make are ignored.
    pub(super) fn sack(&mut self, start: u64, end: u64, mss: u64, mut each: impl FnMut(&Record)) {
        let (start, end) = (start.max(self.unacknowledged), end.min(self.next));
        if start >= end {
            return;
        }
        let mut at = self.index(start);
        while let Some(record) = self.records.get(at).copied().filter(|record| record.start < end) {
            if record.state == State::Sacked {
                at += 1;
                continue;
            }
            if record.start < start {
                if self.may_split(mss) {
                    self.split_at(at, start);
                }
                at += 1;
                continue;
            }
            if record.end > end {
                if !self.may_split(mss) {
                    break;
                }
                self.split_at(at, end);
            }
            let Some(piece) = self.records.get_mut(at) else { break };
            let before = *piece;
            piece.state = State::Sacked;
            *self.sum(before.state) -= before.len();
            self.sacked += before.len();
            each(&before);
            if !self.merge(at) {
                at += 1;
            }
        }
        self.merge(at);
    }

    /// Marks what was sent in this range at `sent`, and is still on its way, as lost.
    pub(super) fn lose(&mut self, start: u64, end: u64, sent: Time) -> Losses {
        let mut losses = Losses::default();
        let mut at = self.index(start);
        while let Some(record) = self.records.get(at).copied().filter(|record| record.start < end) {
            if record.state == State::Out && record.sent == sent {
                if record.start < start {
                    self.split_at(at, start);
                    at += 1;
                    continue;
                }
                if record.end > end {
                    self.split_at(at, end);
                }
                self.lose_at(at, &mut losses);
            }
            at += 1;
        }
        losses
    }

    /// Marks what is on its way since `before` or longer as lost, and the first range in any case, up to `head`
    /// bytes of it.
    pub(super) fn lose_older(&mut self, before: Time, head: u64) -> Losses {
        let mut losses = Losses::default();
        if self.records.front().is_some_and(|front| front.sent > before && front.len() > head) {
            self.split_at(0, self.unacknowledged + head);
        }
        for at in 0..self.records.len() {
            let due = |record: &Record| record.state == State::Out && (at == 0 || record.sent <= before);
            if self.records.get(at).is_some_and(due) {
                self.lose_at(at, &mut losses);
            }
        }
        losses
    }

    /// Marks the first `head` bytes as lost if they are on their way.
    pub(super) fn lose_head(&mut self, head: u64) -> Losses {
        let mut losses = Losses::default();
        if let Some(front) = self.records.front().copied().filter(|front| front.state == State::Out) {
            if front.len() > head {
                self.split_at(0, front.start + head);
            }
            self.lose_at(0, &mut losses);
        }
        losses
    }

    /// The peer has thrown away what it said it had: all of that is lost.
    pub(super) fn renege(&mut self) {
        for record in &mut self.records {
            if record.state == State::Sacked {
                record.state = State::Lost;
            }
        }
        self.lost += self.sacked;
        self.sacked = 0;
        self.lost_from = self.unacknowledged;
    }

    /// The first lost range.
    pub(super) fn first_lost(&self) -> Option<(u64, u64)> {
        if self.lost == 0 {
            return None;
        }
        let from = self.index(self.lost_from);
        let record = self.records.range(from..).find(|record| record.state == State::Lost)?;
        Some((record.start, record.end))
    }

    /// Takes note that the start of a lost range, up to `end`, was sent again.
    pub(super) fn retransmit(&mut self, start: u64, end: u64, sent: Time) {
        let at = self.index(start);
        if self.records.get(at).is_some_and(|record| record.end > end) {
            self.split_at(at, end);
        }
        if let Some(record) = self.records.get_mut(at).filter(|record| record.state == State::Lost) {
            record.state = State::Out;
            record.sent = sent;
            record.transmissions = record.transmissions.saturating_add(1);
            let len = record.len();
            self.lost_from = record.end;
            self.lost -= len;
            self.out += len;
        }
    }

    /// Takes note that what is on its way from `start` to the end was sent once more.
    pub(super) fn repeat_tail(&mut self, start: u64, sent: Time) {
        let at = self.split(start);
        for record in self.records.range_mut(at..) {
            if record.state == State::Out {
                record.sent = sent;
                record.transmissions = record.transmissions.saturating_add(1);
            }
        }
    }

    /// What was taken for lost is on its way after all; `each` sees it.
    pub(super) fn restore(&mut self, mut each: impl FnMut(&Record)) {
        for record in self.records.iter_mut().filter(|record| record.state == State::Lost) {
            record.state = State::Out;
            each(record);
        }
        self.out += self.lost;
        self.lost = 0;
        self.lost_from = self.next;
    }

    /// Whether anything that was sent in this range at `sent` is still on its way.
    pub(super) fn is_out(&self, start: u64, end: u64, sent: Time) -> bool {
        self.records
            .range(self.index(start)..)
            .take_while(|record| record.start < end)
            .any(|record| record.state == State::Out && record.sent == sent)
    }

    /// Whether anything of this range is taken for lost.
    pub(super) fn is_lost(&self, start: u64, end: u64) -> bool {
        let records = self.records.range(self.index(start)..);
        records.take_while(|record| record.start < end).any(|record| record.state == State::Lost)
    }

    /// The last range.
    pub(super) fn back(&self) -> Option<&Record> {
        self.records.back()
    }

    /// Index of the record that holds `offset`.
    fn index(&self, offset: u64) -> usize {
        self.records.partition_point(|record| record.end <= offset)
    }

    /// Makes `offset` an edge and returns the index of the record that starts there.
    fn split(&mut self, offset: u64) -> usize {
        let at = self.index(offset);
        if self.records.get(at).is_some_and(|record| record.start < offset) {
            self.split_at(at, offset);
            return at + 1;
        }
        at
    }

    /// Cuts the record at index `at` in two at `offset`, which lies inside it.
    fn split_at(&mut self, at: usize, offset: u64) {
        if let Some(record) = self.records.get_mut(at) {
            debug_assert!(record.start < offset && offset < record.end, "a cut inside the record");
            let tail = Record { start: offset, ..*record };
            record.end = offset;
            self.records.insert(at + 1, tail);
        }
    }

    fn may_split(&self, mss: u64) -> bool {
        let packets = (self.next - self.unacknowledged) / mss.max(MIN_PIECE);
        let limit = usize::try_from(4 + 2 * packets).unwrap_or(MAX_RECORDS);
        self.records.len() < limit.min(MAX_RECORDS)
    }

    /// Joins the record at index `at` to the one before it if both have arrived.
    fn merge(&mut self, at: usize) -> bool {
        let Some(before) = at.checked_sub(1) else { return false };
        let Some(record) = self.records.get(at).copied() else { return false };
        match self.records.get_mut(before) {
            Some(left) if left.state == State::Sacked && record.state == State::Sacked => {
                left.end = record.end;
                self.records.remove(at);
                true
            }
            _ => false,
        }
    }

    fn lose_at(&mut self, at: usize, losses: &mut Losses) {
        if let Some(record) = self.records.get_mut(at) {
            record.state = State::Lost;
            let len = record.len();
            losses.bytes += len;
            losses.again |= record.transmissions > 1;
            self.lost_from = self.lost_from.min(record.start);
            self.out -= len;
            self.lost += len;
        }
    }

    fn sum(&mut self, state: State) -> &mut u64 {
        match state {
            State::Out => &mut self.out,
            State::Sacked => &mut self.sacked,
            State::Lost => &mut self.lost,
        }
    }

    #[cfg(test)]
    pub(super) fn records(&self) -> impl Iterator<Item = &Record> {
        self.records.iter()
    }

    /// Panics unless the records tile the outstanding data and the sums are theirs.
    #[cfg(test)]
    pub(super) fn check(&self) {
        let mut at = self.unacknowledged;
        let mut sums = [0; 3];
        for record in &self.records {
            assert!(record.start == at && record.end > at, "{record:?} does not follow {at}");
            at = record.end;
            sums[record.state as usize] += record.len();
            assert!(
                record.state != State::Lost || record.start >= self.lost_from,
                "{record:?} is overlooked"
            );
        }
        assert_eq!(at, self.next);
        assert_eq!(sums, [self.out, self.sacked, self.lost]);
    }
}
