// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Level `ui`: the demo's management page in a browser, and what the demo leaves behind.

use std::collections::BTreeMap;

use nix::sys::signal::Signal;
use podgate_tests::browser::Browser;
use podgate_tests::demo::{Demo, Traces};
use podgate_tests::node::wait_until;
use serde_json::Value;

const PODS: [&str; 4] = ["client", "frontend", "backend", "management-ui"];

/// What the guide shows when nothing is applied. Rows and columns as in [`PODS`].
const NOTHING: &str = ".yyy y.yy yy.y yyy.";

/// The guide's policies in its order, and what it shows after each.
const STEPS: [(&str, &str); 4] = [
    ("default-deny", ".nny n.ny nn.y nnn."),
    ("allow-ui", ".nny n.ny nn.y yyy."),
    ("backend-policy", ".nny n.yy nn.y yyy."),
    ("frontend-policy", ".yny n.yy nn.y yyy."),
];

/// Edge by edge, what one of those tables says.
fn edges(table: &str) -> BTreeMap<String, bool> {
    let mut edges = BTreeMap::new();
    for (from, row) in PODS.iter().zip(table.split(' ')) {
        for (to, cell) in PODS.iter().zip(row.chars()) {
            if from != to {
                edges.insert(format!("{from}-{to}"), cell == 'y');
            }
        }
    }
    edges
}

/// What the page shows of every edge, if all its places say the same.
fn shown(browser: &Browser) -> Option<BTreeMap<String, bool>> {
    let places = browser
        .evaluate(
            "return [...document.querySelectorAll('path[data-edge], td[data-cell]')].map(e => [
               e.dataset.edge ?? e.dataset.cell,
               e.dataset.works,
               e.dataset.expected,
               e.tagName === 'TD' ? { yes: 'true', no: 'false' }[e.textContent] ?? e.textContent : e.dataset.works,
             ])",
        )
        .expect("read the page");
    let mut shown = BTreeMap::new();
    for place in places.as_array()? {
        let [edge, works, expected, said] = [0, 1, 2, 3].map(|field| place[field].as_str());
        if works != expected || works != said {
            return None;
        }
        let works = works? == "true";
        if shown
            .insert(edge?.to_owned(), works)
            .is_some_and(|before| before != works)
        {
            return None;
        }
    }
    Some(shown)
}

fn pressed(browser: &Browser) -> Vec<String> {
    let buttons = browser
        .evaluate(
            "return [...document.querySelectorAll('button[data-policy][aria-pressed=true]')]
               .map(button => button.dataset.policy)",
        )
        .expect("read the page");
    let names = buttons.as_array().into_iter().flatten();
    names.filter_map(Value::as_str).map(str::to_owned).collect()
}

fn attribute(browser: &Browser, selector: &str, name: &str) -> Value {
    browser
        .evaluate(&format!(
            "return document.querySelector('{selector}').getAttribute('{name}')"
        ))
        .expect("read the page")
}

/// Waits until the page shows `table`, and says that every connection was tried since the last change.
fn wait_for_page(browser: &Browser, after: &str, table: &str) {
    let expected = edges(table);
    wait_until(&format!("the page shows {table} after {after}"), || {
        shown(browser).as_ref() == Some(&expected)
            && attribute(browser, "#settled", "data-settled") == "true"
    });
}

/// What a running demo holds, which must be more than nothing for a look afterwards to say anything.
fn what_it_holds(demo: &Demo) -> Traces {
    let traces = demo.traces();
    // The demo, its node, the enforcer, and four pods.
    assert!(traces.processes.len() >= 7, "{traces:?}");
    // Those of the node, and a network for each pod.
    assert!(traces.namespaces.len() >= 7, "{traces:?}");
    assert!(traces.maps.len() >= 10, "{traces:?}");
    assert!(traces.programs.len() >= 2, "{traces:?}");
    traces
}

#[test]
fn the_page_follows_each_policy_and_the_demo_cleans_up() {
    let mut demo = Demo::start(&["--ui", "--port", "0", "--ipv6"]);
    let browser = Browser::start().expect("start a browser");
    browser.open(&demo.page()).expect("open the page");
    wait_for_page(&browser, "the start", NOTHING);
    assert_eq!(pressed(&browser), [""; 0]);

    let button = |policy| format!("button[data-policy={policy}]");
    for (number, (policy, table)) in STEPS.into_iter().enumerate() {
        browser.click(&button(policy)).expect("apply a policy");
        wait_for_page(&browser, policy, table);
        assert_eq!(
            pressed(&browser),
            STEPS[..=number]
                .iter()
                .map(|(policy, _)| *policy)
                .collect::<Vec<_>>()
        );
    }
    for (number, (policy, _)) in STEPS.into_iter().enumerate().rev() {
        let table = if number == 0 {
            NOTHING
        } else {
            STEPS[number - 1].1
        };
        browser.click(&button(policy)).expect("remove a policy");
        wait_for_page(&browser, &format!("{policy} is gone"), table);
    }
    assert_eq!(pressed(&browser), [""; 0]);
    assert_eq!(attribute(&browser, "#connection", "data-live"), "true");

    let traces = what_it_holds(&demo);
    demo.signal(Signal::SIGINT);
    let (status, said) = demo.wait();
    assert_eq!(status.code(), Some(0), "{said}");
    traces.wait_until_gone();
    wait_until("the page says that the demo is gone", || {
        attribute(&browser, "#connection", "data-live") == "false"
    });
}

#[test]
fn a_policy_that_allows_alone_isolates_what_it_selects() {
    let mut demo = Demo::start(&["--ui", "--port", "0"]);
    let browser = Browser::start().expect("start a browser");
    browser.open(&demo.page()).expect("open the page");
    wait_for_page(&browser, "the start", NOTHING);
    browser
        .click("button[data-policy=backend-policy]")
        .expect("apply a policy");
    wait_for_page(&browser, "backend-policy", ".yny y.yy yy.y yyn.");
}

#[test]
fn the_five_steps_are_as_expected_and_leave_nothing_behind() {
    let mut demo = Demo::start(&[]);
    demo.read_until("[2/5]");
    let traces = what_it_holds(&demo);
    let (status, said) = demo.wait();
    assert_eq!(status.code(), Some(0), "{said}");
    assert!(said.contains("all five as expected"), "{said}");
    traces.wait_until_gone();
}

#[test]
fn a_demo_that_is_killed_leaves_nothing_behind() {
    let mut demo = Demo::start(&[]);
    demo.read_until("[2/5]");
    let traces = what_it_holds(&demo);
    demo.signal(Signal::SIGKILL);
    let (status, said) = demo.wait();
    assert_eq!(status.code(), None, "{said}");
    traces.wait_until_gone();
}
