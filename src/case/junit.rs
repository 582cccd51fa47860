//! The report as JUnit XML, which CI servers read.

use quick_junit::{NonSuccessKind, Report as Xml, TestCase, TestCaseStatus, TestSuite};

use super::{Report, Verdict};
use crate::diagnostic::{Bag, render_one};

/// Writes a report as JUnit XML: one suite a test file.
pub fn junit(report: &Report, bag: &Bag) -> Result<String, quick_junit::SerializeError> {
    let mut xml = Xml::new("graphloom");
    let mut suites: Vec<(&str, TestSuite)> = Vec::new();
    for ran in &report.cases {
        let status = match &ran.verdict {
            Verdict::Passed => TestCaseStatus::success(),
            Verdict::Skipped(why) => {
                let mut status = TestCaseStatus::skipped();
                status.set_message(*why);
                status
            }
            Verdict::Failed(failures) => {
                let mut status = TestCaseStatus::non_success(NonSuccessKind::Failure);
                if let Some(first) = failures.first() {
                    status.set_message(&*first.message);
                }
                let texts: Vec<String> = failures.iter().map(|f| render_one(bag, f, false)).collect();
                status.set_description(texts.join("\n"));
                status
            }
        };
        let mut case = TestCase::new(&*ran.name, status);
        case.set_classname(&*ran.graph).set_time(ran.took);
        match suites.iter_mut().find(|(file, _)| *file == ran.file) {
            Some((_, suite)) => drop(suite.add_test_case(case)),
            None => {
                let mut suite = TestSuite::new(&*ran.file);
                suite.add_test_case(case);
                suites.push((&ran.file, suite));
            }
        }
    }
    for (file, mut suite) in suites {
        suite.set_time(report.cases.iter().filter(|ran| ran.file == file).map(|ran| ran.took).sum());
        xml.add_test_suite(suite);
    }
    xml.to_string()
}
