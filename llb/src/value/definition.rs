//! The fields of metadata, source maps and nested definitions.

use super::op::message;
use super::{Fields, Message, Value};
use crate::pb;

impl Message for pb::Definition {
    fn fields(&self, out: &mut Fields) {
        let ops = self.def.iter().cloned().map(Value::Bytes);
        out.list("def", ops.collect());
        out.map("metadata", &self.metadata, Message::to_value);
        out.message("Source", self.source.as_ref());
    }
}

impl Message for pb::OpMetadata {
    fn fields(&self, out: &mut Fields) {
        out.bool("ignore_cache", self.ignore_cache);
        out.map("description", &self.description, |text| {
            Value::Text(text.clone())
        });
        out.message("export_cache", self.export_cache.as_ref());
        out.map("caps", &self.caps, |value| Value::Bool(*value));
        out.message("progress_group", self.progress_group.as_ref());
        out.message("linux_resources", self.linux_resources.as_ref());
    }
}

message!(ExportCache { bool "Value" value });
message!(ProgressGroup { text "id" id, text "name" name, bool "weak" weak });
message!(LinuxResources {
    int "memory" memory,
    int "memorySwap" memory_swap,
    uint "cpuShares" cpu_shares,
    uint "cpuPeriod" cpu_period,
    int "cpuQuota" cpu_quota,
    text "cpusetCpus" cpuset_cpus,
    text "cpusetMems" cpuset_mems,
});
message!(Source { messages_by_key "locations" locations, messages "infos" infos });
message!(Locations { messages "locations" locations });
message!(SourceInfo {
    text "filename" filename,
    bytes "data" data,
    message "definition" definition,
    text "language" language,
});
message!(Location { int "sourceIndex" source_index, messages "ranges" ranges });
message!(Range { message "start" start, message "end" end });
message!(Position { int "line" line, int "character" character });
