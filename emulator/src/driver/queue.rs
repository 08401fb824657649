//! Queues work into streams, and does it. A stream's work is done when somebody waits for it, or
//! some time before. The seed decides how much is done early, so that a test that forgets to wait
//! does not pass by luck.

use std::collections::BTreeMap;
use std::time::Instant;

use super::code::{Code, Result};
use super::host::{self, bytes_at, write_bytes};
use super::state::Driver;
use super::work::{Graph, Stream, Tail, Work};
use crate::device::AccessError;

impl Driver {
    /// Adds work to a stream, or to the graph that it is captured into.
    pub(super) fn enqueue(&mut self, stream: u64, work: Work) -> Result<()> {
        if self.is_legacy(stream) {
            self.legacy_allowed()?;
            self.synchronize_blocking(stream)?;
            return self.perform(stream, work);
        }
        if self.streams[&stream].capture.is_some() {
            return self.capture_node(stream, work);
        }
        self.depart(stream, &work)?;
        self.streams.entry(stream).and_modify(|s| s.queue.push_back(work));
        if !self.settings.deferred {
            return self.drain(stream);
        }
        // Some of the waiting work is done now, most often none.
        let mut left = if self.random.below(3) == 0 { 1 + self.random.below(4) } else { 0 };
        while left > 0 && self.advance(None) {
            left -= 1;
        }
        let device = self.streams[&stream].device;
        self.gpus[device].failed.map_or(Ok(()), Err)
    }

    /// Does the next piece of work of some stream that does not wait for an event, most often of
    /// the stream `waited_for`. The stream's device keeps the error, if there is one. Returns false
    /// if no stream can go on.
    pub(super) fn advance(&mut self, waited_for: Option<u64>) -> bool {
        let ready = |s: &Stream| match s.queue.front() {
            None => false,
            Some(Work::Wait { event, time }) => {
                self.events.get(event).is_none_or(|e| e.reached >= *time)
            }
            Some(_) => true,
        };
        let ready: Vec<u64> =
            self.streams.iter().filter(|(_, s)| ready(s)).map(|(&id, _)| id).collect();
        if ready.is_empty() {
            return false;
        }
        let preferred =
            waited_for.filter(|stream| ready.contains(stream) && self.random.below(4) != 0);
        let stream = preferred.unwrap_or_else(|| ready[self.random.below(ready.len())]);
        let work = self.streams.get_mut(&stream).and_then(|s| s.queue.pop_front());
        if let Some(work) = work {
            _ = self.perform(stream, work);
        }
        true
    }

    /// Does work until a stream is empty. Work of other streams is done meanwhile.
    pub(super) fn drain(&mut self, stream: u64) -> Result<()> {
        while self.streams.get(&stream).is_some_and(|s| !s.queue.is_empty())
            && self.advance(Some(stream))
        {}
        let device = self.streams.get(&stream).map_or(0, |s| s.device);
        self.gpus[device].failed.map_or(Ok(()), Err)
    }

    /// Drains the streams that `which` selects.
    pub(super) fn drain_where(&mut self, which: impl Fn(&Stream) -> bool) -> Result<()> {
        let streams: Vec<u64> =
            self.streams.iter().filter(|(_, s)| which(s)).map(|(&id, _)| id).collect();
        streams.into_iter().try_for_each(|stream| self.drain(stream))
    }

    /// Drains a stream as [`Self::drain`] does, and notes that the host has waited for its work.
    pub(super) fn synchronize(&mut self, stream: u64) -> Result<()> {
        self.drain(stream)?;
        self.settle_stream(stream);
        Ok(())
    }

    /// Synchronises the streams that the legacy stream of a device waits for.
    pub(super) fn synchronize_blocking(&mut self, legacy: u64) -> Result<()> {
        let device = self.streams[&legacy].device;
        let is_waited_for = |s: &Stream| s.blocking && s.device == device;
        let streams: Vec<u64> =
            self.streams.iter().filter(|(_, s)| is_waited_for(s)).map(|(&id, _)| id).collect();
        streams.into_iter().try_for_each(|stream| self.synchronize(stream))
    }

    /// Does a piece of work. A device that has failed does nothing more, except that events are
    /// still reached, so that nobody waits for ever.
    fn perform(&mut self, stream: u64, work: Work) -> Result<()> {
        let device = self.streams.get(&stream).map_or(0, |s| s.device);
        if let Work::Record { event, time } = work {
            if let Some(event) = self.events.get_mut(&event) {
                event.reached = event.reached.max(time);
                event.at = Some(Instant::now());
            }
            return Ok(());
        }
        if let Some(code) = self.gpus[device].failed {
            return Err(code);
        }
        if let Work::Graph(graph) = work {
            return self.run_graph(stream, &graph);
        }
        let outcome = self.run(device, work);
        outcome.map_err(|(code, text)| {
            self.say(&text);
            self.gpus[device].failed = Some(code);
            code
        })
    }

    fn run(&mut self, device: usize, work: Work) -> std::result::Result<(), (Code, String)> {
        if let Work::ToDevice { from: host, pinned, .. } | Work::ToHost { to: host, pinned, .. } =
            work
        {
            self.check_alive(host, pinned)?;
        }
        let gpu = &mut self.gpus[device].device;
        let access =
            |error: AccessError| (Code::ERROR_ILLEGAL_ADDRESS, format!("a copy or fill: {error}"));
        let host = |code| (code, "a copy from or to a null pointer".to_owned());
        match work {
            Work::Kernel { kernel, grid, args } => {
                let args: Vec<&[u8]> = args.iter().map(Vec::as_slice).collect();
                gpu.launch(kernel, grid, &args)
                    .map_err(|error| (Code::from(&error), error.to_string()))
            }
            Work::Bytes { to, bytes } => gpu.write(to, &bytes).map_err(access),
            Work::ToDevice { to, from, bytes, .. } => {
                let bytes = bytes_at(from.pointer(), bytes).map_err(host)?;
                gpu.write(to, &bytes).map_err(access)
            }
            Work::ToHost { to, from, bytes, .. } => {
                let mut data = vec![0; bytes];
                gpu.read(from, &mut data).map_err(access)?;
                write_bytes(to.pointer(), &data).map_err(host)
            }
            Work::Copy { to, from, bytes } => gpu.copy(to, from, bytes).map_err(access),
            Work::Fill { to, pattern, count } => gpu.fill(to, &pattern, count).map_err(access),
            Work::Product(product) => product.run(gpu).map_err(access),
            Work::Host { function, data } => {
                host::call(function, data.pointer());
                Ok(())
            }
            Work::Free(address) => {
                gpu.free(address);
                Ok(())
            }
            Work::Record { .. } | Work::Wait { .. } | Work::Graph(_) | Work::Nothing => Ok(()),
        }
    }

    /// Replays a graph: its nodes in an order that the seed decides among those that their
    /// dependencies allow.
    fn run_graph(&mut self, stream: u64, graph: &Graph) -> Result<()> {
        let mut done = Tail::new();
        // The numbers of the launches, by their nodes.
        let mut launches = BTreeMap::new();
        while done.len() < graph.nodes.len() {
            let ready = |k: &usize| !done.contains(k) && graph.nodes[*k].after.is_subset(&done);
            let ready: Vec<usize> = (0..graph.nodes.len()).filter(ready).collect();
            let next = ready[self.random.below(ready.len())];
            let before = graph.reached_from(&graph.nodes[next].after);
            let beside = launches.iter().filter(|(node, _)| !before.contains(node));
            let beside = beside.map(|(_, launch)| *launch).collect();
            let device = self.streams[&stream].device;
            let last = self.gpus[device].device.set_beside(beside);
            let outcome = self.perform(stream, graph.nodes[next].work.clone());
            if self.gpus[device].device.set_beside(vec![]) > last {
                launches.insert(next, last + 1);
            }
            outcome?;
            done.insert(next);
        }
        Ok(())
    }
}
