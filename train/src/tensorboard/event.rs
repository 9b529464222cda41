//! TensorBoard's `Event` messages, as far as a training run needs them, in Protocol Buffers' encoding.
//!
//! ```text
//! Event       { 1: double wall_time  2: int64 step  3: string file_version | 5: Summary | 7: SessionLog }
//! Summary     { 1: repeated Value }
//! Value       { 1: string tag  2: float simple_value | 8: TensorProto  9: SummaryMetadata }
//! SessionLog  { 1: enum status, START = 1 }
//! SummaryMetadata { 1: PluginData { 1: string plugin_name } }
//! TensorProto { 1: enum dtype, DT_STRING = 7  2: TensorShapeProto { 2: Dim { 1: int64 size } }  8: bytes string_val }
//! ```
//!
//! Source: `event.proto`, `summary.proto` and `tensor.proto` in <https://github.com/tensorflow/tensorboard/tree/master/tensorboard/compat/proto>.

/// What every event file begins with.
const FILE_VERSION: &str = "brain.Event:2";

/// A message under construction: fields are appended in any order, each a key (number and wire type) and a value.
#[derive(Default)]
struct Message(Vec<u8>);

impl Message {
    fn key(&mut self, field: u8, wire_type: u8) {
        self.0.push(field << 3 | wire_type);
    }

    /// Seven bits a byte, the lowest first; all but the last byte have their highest bit set.
    fn number(&mut self, mut number: u64) {
        while number >= 0x80 {
            self.0.push(number as u8 | 0x80);
            number >>= 7;
        }
        self.0.push(number as u8);
    }

    fn varint(mut self, field: u8, number: u64) -> Message {
        self.key(field, 0);
        self.number(number);
        self
    }

    fn double(mut self, field: u8, number: f64) -> Message {
        self.key(field, 1);
        self.0.extend(number.to_le_bytes());
        self
    }

    fn float(mut self, field: u8, number: f32) -> Message {
        self.key(field, 5);
        self.0.extend(number.to_le_bytes());
        self
    }

    fn bytes(mut self, field: u8, bytes: &[u8]) -> Message {
        self.key(field, 2);
        self.number(bytes.len() as u64);
        self.0.extend(bytes);
        self
    }

    fn message(self, field: u8, message: Message) -> Message {
        self.bytes(field, &message.0)
    }
}

fn event(wall_time: f64, step: u64) -> Message {
    let event = Message::default().double(1, wall_time);
    // What is zero is not written.
    if step == 0 { event } else { event.varint(2, step) }
}

/// The first event of a file.
pub(super) fn version(wall_time: f64) -> Vec<u8> {
    event(wall_time, 0).bytes(3, FILE_VERSION.as_bytes()).0
}

/// A program began, or began again, before `step`: what earlier files hold of it and of later steps is void.
pub(super) fn start(wall_time: f64, step: u64) -> Vec<u8> {
    event(wall_time, step).message(7, Message::default().varint(1, 1)).0
}

/// Numbers of one step, each with its tag.
pub(super) fn scalars(wall_time: f64, step: u64, numbers: &[(&str, f64)]) -> Vec<u8> {
    let summary = numbers.iter().fold(Message::default(), |summary, (tag, number)| {
        summary.message(1, Message::default().bytes(1, tag.as_bytes()).float(2, *number as f32))
    });
    event(wall_time, step).message(5, summary).0
}

/// A text in Markdown for the text dashboard.
pub(super) fn text(wall_time: f64, step: u64, tag: &str, text: &str) -> Vec<u8> {
    let shape = Message::default().message(2, Message::default().varint(1, 1));
    let tensor = Message::default().varint(1, 7).message(2, shape).bytes(8, text.as_bytes());
    let plugin = Message::default().bytes(1, b"text");
    let value = Message::default()
        .bytes(1, tag.as_bytes())
        .message(8, tensor)
        .message(9, Message::default().message(1, plugin));
    event(wall_time, step).message(5, Message::default().message(1, value)).0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensorboard::frame;

    /// An event as it stands in a file.
    fn framed(event: &[u8]) -> String {
        let mut bytes = Vec::new();
        frame::append(&mut bytes, event);
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// What TensorBoard 2.21's own protobuf classes and record writer make of the same events.
    #[test]
    fn events_are_tensorboards_own_byte_for_byte() {
        let version = "1800000000000000a37f4b2209000000000000f83f1a0d627261696e2e4576656e743a322a28646c";
        assert_eq!(framed(&self::version(1.5)), version);
        let start = "100000000000000095fbfe1809000000000000f83f10ad023a020801d17949d4";
        assert_eq!(framed(&self::start(1.5, 301)), start);
        let scalars = self::scalars(2.5, 310, &[("train/loss", 5.25), ("train/lr", 0.0)]);
        assert_eq!(
            framed(&scalars),
            "3200000000000000241956ec09000000000000044010b6022a240a110a0a747261696e2f6c6f7373150000a8400a0f0a0874\
             7261696e2f6c72150000000046ba6563"
        );
        let text = self::text(1.5, 301, "config/text_summary", "seed = 17");
        assert_eq!(
            framed(&text),
            "440000000000000043592e9a09000000000000f83f10ad022a360a340a13636f6e6669672f746578745f73756d6d61727942\
             130807120412020801420973656564203d2031374a080a060a04746578743d32c425"
        );
    }
}
