//! What the door costs a request: remembered, looked up among many intentions, by permissions, by rules.
#![allow(clippy::unwrap_used, reason = "a bench may")]

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use http::{HeaderMap, Method};
use outrigger::access::{
    Action, Ask, Caller, DefaultPolicy, Enforced, Gate, Intention, Intentions, PathMatch, Permission, Request, Rule,
    Source, Standing,
};
use outrigger::names::SpiffeId;

fn intention(name: &str, action: Action) -> Intention {
    let source = Source { name: name.into(), namespace: "default".into(), partition: "default".into(), peer: None };
    Intention { source, destination: "users".into(), precedence: 9, action }
}

fn access(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("access");
    let id = SpiffeId::parse("spiffe://t.consul/ns/default/dc/dc1/svc/web").unwrap();
    let headers = HeaderMap::new();
    let request = Request { method: &Method::GET, path: "/v1/users/7", authority: "users", headers: &headers };
    let ask = Ask { caller: Some(&id), request: Some(request) };
    let gate = |last: Action, rules: Vec<Rule>| {
        let mut list: Vec<_> = (0..1000).map(|at| intention(&format!("service-{at}"), Action::Deny)).collect();
        list.push(intention("web", last));
        Gate::new(1, Enforced::On(Intentions::new(list, Some(DefaultPolicy::Deny))), rules)
    };
    let permissions: Vec<_> = (0..10)
        .map(|at| Permission {
            allow: true,
            path: Some(PathMatch::Prefix(format!("/v{}", 10 - at).into())),
            methods: vec![Method::GET],
            ..Permission::default()
        })
        .collect();
    let rules = vec![Rule {
        from: vec![Caller::Id(id.clone())],
        methods: vec![Method::GET],
        prefixes: vec!["/v1".into()],
        exact: vec![],
        allow: true,
    }];
    let standing = Standing::default();
    let open = gate(Action::Allow, vec![]);
    group.bench_function("remembered", |b| b.iter(|| black_box(open.judge(black_box(ask), &standing))));
    group.bench_function("1001 intentions looked through", |b| {
        b.iter(|| black_box(open.judge(black_box(ask), &Standing::default())));
    });
    let standing = Standing::default();
    let by_permission = gate(Action::Permissions(permissions.into()), vec![]);
    group.bench_function("10 permissions", |b| b.iter(|| black_box(by_permission.judge(black_box(ask), &standing))));
    let standing = Standing::default();
    let ruled = gate(Action::Allow, rules);
    group.bench_function("remembered and a rule", |b| b.iter(|| black_box(ruled.judge(black_box(ask), &standing))));
    group.finish();
}

criterion_group!(benches, access);
criterion_main!(benches);
