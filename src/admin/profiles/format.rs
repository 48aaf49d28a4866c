//! The format of profiles that pprof and its relatives read.
//!
//! The messages have the field numbers of pprof's `profile.proto`
//! (<https://github.com/google/pprof/blob/main/proto/profile.proto>), as far as
//! there is something to say. Names and lines are in the profile, so nobody needs
//! the binary, its addresses or a service that knows names.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, SystemTime};

use prost::Message;

/// The id of the only mapping: where code lies is of no use to anybody.
const PROGRAM: u64 = 1;

/// What was sampled, ready to be written down.
pub(super) struct Sampled {
    /// The stacks, each with how often it was seen. Equal ones may come twice.
    pub stacks: Vec<Stack>,
    /// When it began.
    pub since: SystemTime,
    /// How long it took.
    pub duration: Duration,
    /// The program.
    pub program: String,
    /// How much CPU a sample stands for.
    pub period: Duration,
    /// What else is to be said of it.
    pub comment: String,
}

/// A stack that was seen.
pub(super) struct Stack {
    /// The name of the thread.
    pub thread: String,
    /// The functions, the innermost first.
    pub frames: Vec<Frame>,
    /// How often.
    pub count: i64,
}

/// A function on a stack.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Frame {
    /// As people write it.
    pub name: String,
    /// As the linker knows it.
    pub linked: String,
    /// The file it is in; empty if that is not known.
    pub file: String,
    /// A line of it; 0 if that is not known.
    pub line: i64,
}

/// The profile as bytes of `perftools.profiles.Profile`, not compressed. The order
/// of the stacks makes no difference.
pub(super) fn encode(sampled: &Sampled) -> Vec<u8> {
    let mut table = Table::default();
    // The empty text comes first, by the format.
    table.text("");
    let mut ordered: Vec<_> = sampled.stacks.iter().collect();
    let key = |stack: &Stack| -> Vec<(String, i64)> {
        stack.frames.iter().map(|frame| (frame.linked.clone(), frame.line)).collect()
    };
    ordered.sort_by_cached_key(|stack| (stack.thread.clone(), key(stack)));
    let mut samples: BTreeMap<(i64, Vec<u64>), i64> = BTreeMap::new();
    for stack in ordered {
        let thread = table.text(&stack.thread);
        let locations = stack.frames.iter().map(|frame| table.location(frame)).collect();
        *samples.entry((thread, locations)).or_default() += stack.count;
    }
    let period = nanoseconds(sampled.period);
    let label = table.text("thread");
    let sample = samples.into_iter().map(|((thread, location_id), count)| proto::Sample {
        location_id,
        value: vec![count, count * period],
        label: vec![proto::Label { key: label, str: thread }],
    });
    let sample = sample.collect();
    let cpu = proto::ValueType { r#type: table.text("cpu"), unit: table.text("nanoseconds") };
    let profile = proto::Profile {
        sample_type: vec![proto::ValueType { r#type: table.text("samples"), unit: table.text("count") }, cpu],
        sample,
        // What begins as "has" keeps readers from looking for the program's file.
        mapping: vec![proto::Mapping {
            id: PROGRAM,
            filename: table.text(&sampled.program),
            has_functions: true,
            has_filenames: true,
            has_line_numbers: true,
            has_inline_frames: true,
        }],
        time_nanos: sampled.since.duration_since(SystemTime::UNIX_EPOCH).map_or(0, nanoseconds),
        duration_nanos: nanoseconds(sampled.duration),
        period_type: Some(cpu),
        period,
        comment: vec![table.text(&sampled.comment)],
        location: table.locations,
        function: table.functions,
        string_table: table.texts,
    };
    profile.encode_to_vec()
}

fn nanoseconds(duration: Duration) -> i64 {
    i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX)
}

/// What samples refer to by number.
#[derive(Default)]
struct Table {
    texts: Vec<String>,
    functions: Vec<proto::Function>,
    locations: Vec<proto::Location>,
    text_numbers: HashMap<String, i64>,
    function_ids: HashMap<(i64, i64), u64>,
    location_ids: HashMap<(u64, i64), u64>,
}

impl Table {
    /// The number of a text, from 0.
    fn text(&mut self, text: &str) -> i64 {
        if let Some(known) = self.text_numbers.get(text) {
            return *known;
        }
        let number = self.texts.len() as i64;
        self.texts.push(text.to_string());
        self.text_numbers.insert(text.to_string(), number);
        number
    }

    /// The id of a line of a function, from 1.
    fn location(&mut self, frame: &Frame) -> u64 {
        let (system_name, filename) = (self.text(&frame.linked), self.text(&frame.file));
        let name = self.text(&frame.name);
        let next = self.functions.len() as u64 + 1;
        let function_id = *self.function_ids.entry((system_name, filename)).or_insert(next);
        if function_id == next {
            self.functions.push(proto::Function { id: next, name, system_name, filename });
        }
        let next = self.locations.len() as u64 + 1;
        let id = *self.location_ids.entry((function_id, frame.line)).or_insert(next);
        if id == next {
            let line = vec![proto::Line { function_id, line: frame.line }];
            self.locations.push(proto::Location { id: next, mapping_id: PROGRAM, line });
        }
        id
    }
}

/// What of the format's messages is written.
pub(super) mod proto {
    #[derive(Clone, PartialEq, prost::Message)]
    pub struct Profile {
        #[prost(message, repeated, tag = "1")]
        pub sample_type: Vec<ValueType>,
        #[prost(message, repeated, tag = "2")]
        pub sample: Vec<Sample>,
        #[prost(message, repeated, tag = "3")]
        pub mapping: Vec<Mapping>,
        #[prost(message, repeated, tag = "4")]
        pub location: Vec<Location>,
        #[prost(message, repeated, tag = "5")]
        pub function: Vec<Function>,
        #[prost(string, repeated, tag = "6")]
        pub string_table: Vec<String>,
        #[prost(int64, tag = "9")]
        pub time_nanos: i64,
        #[prost(int64, tag = "10")]
        pub duration_nanos: i64,
        #[prost(message, optional, tag = "11")]
        pub period_type: Option<ValueType>,
        #[prost(int64, tag = "12")]
        pub period: i64,
        #[prost(int64, repeated, tag = "13")]
        pub comment: Vec<i64>,
    }

    #[derive(Clone, Copy, PartialEq, prost::Message)]
    pub struct ValueType {
        #[prost(int64, tag = "1")]
        pub r#type: i64,
        #[prost(int64, tag = "2")]
        pub unit: i64,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub struct Sample {
        #[prost(uint64, repeated, tag = "1")]
        pub location_id: Vec<u64>,
        #[prost(int64, repeated, tag = "2")]
        pub value: Vec<i64>,
        #[prost(message, repeated, tag = "3")]
        pub label: Vec<Label>,
    }

    #[derive(Clone, Copy, PartialEq, prost::Message)]
    pub struct Label {
        #[prost(int64, tag = "1")]
        pub key: i64,
        #[prost(int64, tag = "2")]
        pub str: i64,
    }

    #[derive(Clone, Copy, PartialEq, prost::Message)]
    pub struct Mapping {
        #[prost(uint64, tag = "1")]
        pub id: u64,
        #[prost(int64, tag = "5")]
        pub filename: i64,
        #[prost(bool, tag = "7")]
        pub has_functions: bool,
        #[prost(bool, tag = "8")]
        pub has_filenames: bool,
        #[prost(bool, tag = "9")]
        pub has_line_numbers: bool,
        #[prost(bool, tag = "10")]
        pub has_inline_frames: bool,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub struct Location {
        #[prost(uint64, tag = "1")]
        pub id: u64,
        #[prost(uint64, tag = "2")]
        pub mapping_id: u64,
        #[prost(message, repeated, tag = "4")]
        pub line: Vec<Line>,
    }

    #[derive(Clone, Copy, PartialEq, prost::Message)]
    pub struct Line {
        #[prost(uint64, tag = "1")]
        pub function_id: u64,
        #[prost(int64, tag = "2")]
        pub line: i64,
    }

    #[derive(Clone, Copy, PartialEq, prost::Message)]
    pub struct Function {
        #[prost(uint64, tag = "1")]
        pub id: u64,
        #[prost(int64, tag = "2")]
        pub name: i64,
        #[prost(int64, tag = "3")]
        pub system_name: i64,
        #[prost(int64, tag = "4")]
        pub filename: i64,
    }
}
