//! The scheduler: the same answer alone and in company, and no request harms another.

use crate::support::{Memory, engine, llama, random_tokens};
use coffer_checkpoint::DType;
use coffer_engine::{Choice, Engine, EngineError, Event, FinishReason, Request, SamplingParams, Scheduler};
use std::sync::{
    Arc,
    mpsc::{Receiver, channel},
};

/// Bytes of prefixes.
const KEPT: usize = 1 << 20;
const GREEDY: SamplingParams = SamplingParams { temperature: 0.0, top_p: 1.0, seed: 0 };

fn tiny() -> Arc<Engine> {
    Arc::new(engine(&llama(), &Memory::random(&llama(), DType::BF16, 1)))
}

fn request(prompt: Vec<u32>, sampling: SamplingParams, max_tokens: usize) -> (Request, Receiver<Event>) {
    let (sender, events) = channel();
    let sink = Box::new(move |event| sender.send(event).is_ok());
    (Request { prompt, sampling, max_tokens, stop_tokens: Vec::new(), top_logprobs: 0, owner: [0; 32], sink }, events)
}

fn collect(events: Receiver<Event>) -> (Vec<Choice>, Option<FinishReason>) {
    let (mut choices, mut reason) = (Vec::new(), None);
    for event in events {
        assert_eq!(reason, None, "nothing follows the end");
        match event {
            Event::Token { choice, .. } => choices.push(choice),
            Event::Done(r) => reason = Some(r),
            Event::Reused(_) => assert!(choices.is_empty(), "it comes first"),
        }
    }
    (choices, reason)
}

#[test]
fn the_same_answer_alone_and_in_company() {
    let engine = tiny();
    let scheduler = Scheduler::start(engine.clone(), 3, 100, KEPT);
    let mut expected = Vec::new();
    for i in 0..9u64 {
        let params = SamplingParams { temperature: 0.3 * (i % 4) as f32, top_p: 0.9, seed: i };
        let prompt = random_tokens(&llama(), [1, 700, 30][i as usize % 3], i);
        let alone: Vec<Choice> = engine.generate(&prompt, params.clone()).unwrap().take(12).map(Result::unwrap).collect();
        let (request, events) = request(prompt, params, 12);
        scheduler.submit(request).ok().unwrap();
        expected.push((events, alone));
    }
    for (events, alone) in expected {
        assert_eq!(collect(events), (alone, Some(FinishReason::Length)));
    }
}

#[test]
fn stop_tokens_end_a_generation_and_are_not_reported() {
    let engine = tiny();
    let alone: Vec<u32> = engine.generate(&[3, 4], GREEDY).unwrap().take(8).map(|c| c.unwrap().token).collect();
    let first = alone.iter().position(|t| *t == alone[5]).unwrap();
    let scheduler = Scheduler::start(engine, 2, 2, KEPT);
    let (mut request, events) = request(vec![3, 4], GREEDY, 8);
    request.stop_tokens = vec![alone[5]];
    scheduler.submit(request).ok().unwrap();
    let (choices, reason) = collect(events);
    assert_eq!(choices.iter().map(|c| c.token).collect::<Vec<_>>(), alone[..first]);
    assert_eq!(reason, Some(FinishReason::Stop));
}

#[test]
fn the_most_likely_tokens_come_along() {
    let scheduler = Scheduler::start(tiny(), 1, 1, KEPT);
    let (mut request, events) = request(vec![1], GREEDY, 3);
    request.top_logprobs = 4;
    scheduler.submit(request).ok().unwrap();
    for event in events {
        if let Event::Token { choice, top } = event {
            assert_eq!(top.len(), 4);
            assert_eq!(top[0], choice);
            assert!(top.is_sorted_by(|a, b| a.logprob >= b.logprob));
        }
    }
}

#[test]
fn what_cannot_run_ends_at_once() {
    let scheduler = Scheduler::start(tiny(), 2, 10, KEPT);
    for (prompt, max_tokens, want) in [
        (vec![], 5, FinishReason::Error("there are no tokens to run".into())),
        (vec![1, 160], 5, FinishReason::Error("token 160 lies outside the vocabulary of 160".into())),
        (vec![1; 1201], 5, FinishReason::Error("1201 tokens do not fit into a context of 1200".into())),
        (vec![1], 0, FinishReason::Length),
    ] {
        let (request, events) = request(prompt, GREEDY, max_tokens);
        scheduler.submit(request).ok().unwrap();
        assert_eq!(collect(events), (vec![], Some(want)));
    }
    let (request, events) = request(vec![1; 1199], GREEDY, usize::MAX);
    scheduler.submit(request).ok().unwrap();
    let (choices, reason) = collect(events);
    assert_eq!((choices.len(), reason), (2, Some(FinishReason::Length)));
}

#[test]
fn who_goes_away_frees_the_slot() {
    let scheduler = Scheduler::start(tiny(), 1, 2, KEPT);
    let (gone, events) = request(vec![1, 2, 3], GREEDY, usize::MAX);
    let (mut panicking, _) = request(vec![1, 2, 3], GREEDY, usize::MAX);
    panicking.sink = Box::new(|_| panic!("a sink that panics, as this test wants"));
    let (next, next_events) = request(vec![4, 5], GREEDY, 3);
    scheduler.submit(gone).ok().unwrap();
    assert!(matches!(events.recv(), Ok(Event::Token { .. })));
    drop(events);
    scheduler.submit(panicking).ok().unwrap();
    scheduler.submit(next).ok().unwrap();
    assert_eq!(collect(next_events).0.len(), 3);
}

#[test]
fn the_line_is_bounded() {
    let scheduler = Scheduler::start(tiny(), 1, 2, KEPT);
    let mut kept = Vec::new();
    for i in 0..4 {
        let (request, events) = request(vec![1], GREEDY, 1000);
        kept.push(events);
        let refused = scheduler.submit(request).err();
        assert_eq!(refused.is_some(), i == 3);
        assert!(refused.is_none_or(|r| r.prompt == [1]));
    }
    let (running, waiting) = scheduler.load();
    assert_eq!(running + waiting, 3);
}

#[test]
fn shutdown_finishes_the_running_and_refuses_the_waiting() {
    let scheduler = Scheduler::start(tiny(), 1, 5, KEPT);
    let (running, running_events) = request(vec![1, 2], GREEDY, 200);
    let (waiting, waiting_events) = request(vec![3], GREEDY, 200);
    scheduler.submit(running).ok().unwrap();
    let first = running_events.recv().unwrap();
    assert!(matches!(first, Event::Token { .. }));
    scheduler.submit(waiting).ok().unwrap();
    scheduler.shutdown();
    let (choices, reason) = collect(running_events);
    assert_eq!((choices.len(), reason), (199, Some(FinishReason::Length)));
    let (choices, reason) = collect(waiting_events);
    assert_eq!((choices.len(), reason), (0, Some(FinishReason::Error("shutting down".into()))));
    let (late, _) = request(vec![1], GREEDY, 1);
    assert!(scheduler.submit(late).is_err());
    scheduler.shutdown();
}

#[test]
fn a_generation_that_goes_on_is_one_from_the_start() {
    let config = llama();
    let engine = engine(&config, &Memory::random(&config, DType::BF16, 21));
    let prompts = [vec![1, 2, 3, 4, 5], vec![1, 2, 3, 4, 5, 6, 7], vec![1, 2, 3, 4, 5, 6, 7], vec![1, 9], vec![8]];
    let sampling = SamplingParams { temperature: 1.0, top_p: 1.0, seed: 3 };
    let mut going_on = engine.generate(&prompts[0], sampling.clone()).unwrap();
    for prompt in &prompts {
        going_on.restart(prompt).unwrap();
        let tokens: Vec<u32> = going_on.by_ref().take(6).map(|c| c.unwrap().token).collect();
        let fresh: Vec<u32> = engine.generate(prompt, sampling.clone()).unwrap().take(6).map(|c| c.unwrap().token).collect();
        assert_eq!(tokens, fresh, "{prompt:?}");
    }
    assert!(matches!(going_on.restart(&[]), Err(EngineError::NoTokens)));
    assert!(matches!(going_on.restart(&vec![1; 5000]), Err(EngineError::Context { .. })));
}

/// Runs a request and returns how much of its prompt was reused and what it made.
fn ask(scheduler: &Scheduler, prompt: &[u32], owner: u8) -> (usize, Vec<Choice>) {
    let (mut request, events) = request(prompt.to_vec(), GREEDY, 6);
    request.owner = [owner; 32];
    scheduler.submit(request).ok().unwrap();
    let mut reused = 0;
    let mut choices = Vec::new();
    for event in events {
        match event {
            Event::Reused(tokens) => reused = tokens,
            Event::Token { choice, .. } => choices.push(choice),
            Event::Done(reason) => assert_eq!(reason, FinishReason::Length),
        }
    }
    (reused, choices)
}

#[test]
fn what_an_owner_asked_before_need_not_run_again_and_leaves_no_trace() {
    let engine = tiny();
    let scheduler = Scheduler::start(engine.clone(), 2, 10, KEPT);
    let alone = |prompt: &[u32]| engine.generate(prompt, GREEDY).unwrap().take(6).map(Result::unwrap).collect::<Vec<_>>();
    let first = random_tokens(&llama(), 150, 1);
    assert_eq!(ask(&scheduler, &first, 1), (0, alone(&first)));
    // The same again: all but the last token. With its answer and more: all that ran. A part of it: in the middle of a page.
    assert_eq!(ask(&scheduler, &first, 1), (149, alone(&first)));
    let answered: Vec<u32> = alone(&first).iter().map(|c| c.token).collect();
    let longer = [&first[..], &answered, &[5, 6, 7]].concat();
    assert_eq!(ask(&scheduler, &longer, 1), (155, alone(&longer)));
    let branched = [&first[..100], &[9, 8, 7]].concat();
    let (reused, made) = ask(&scheduler, &branched, 1);
    assert!(reused >= 100 && made == alone(&branched), "{reused} reused");
    // What was shared is as it was.
    assert_eq!(ask(&scheduler, &first, 1), (149, alone(&first)));
    // Somebody else learns nothing of it.
    assert_eq!(ask(&scheduler, &first, 2), (0, alone(&first)));
}

#[test]
fn prefixes_are_kept_as_far_as_there_is_room() {
    let page = engine_page_bytes();
    for (room, reused) in [(0, 0), (page, 0), (8 * page, 99)] {
        let scheduler = Scheduler::start(tiny(), 1, 1, room);
        let prompt = random_tokens(&llama(), 100, 1);
        ask(&scheduler, &prompt, 1);
        assert_eq!(ask(&scheduler, &prompt, 1).0, reused, "room of {room}");
    }
}

/// Bytes that one page takes in all layers.
fn engine_page_bytes() -> usize {
    let engine = tiny();
    let mut cache = engine.cache(1).unwrap();
    crate::support::run(&engine, &mut cache, &[1]);
    cache.bytes()
}
