//! One instance asks the others.

use super::*;

/// Serves `instance` on a socket; the task ends with the test.
pub(super) async fn served(router: Router) -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("bound");
    tokio::spawn(async move { axum::serve(listener, router).await });
    format!("http://{address}")
}

pub(super) fn member(id: &str, address: Option<String>, partitions: &[i32]) -> Member {
    Member { instance_id: id.to_owned(), address, partitions: partitions.to_vec() }
}

#[tokio::test]
async fn any_instance_answers_for_the_group_and_passes_the_token_on() {
    const TOKEN: Option<&str> = Some("s3cret");
    let two = Instance::among(TOKEN, "two", Vec::new()).holding(&[2], 3).with_user(2, "a/b ü", 40);
    let members = vec![member("one", None, &[0, 1]), member("two", Some(served(two.router.clone()).await), &[2])];
    let one = Instance::among(TOKEN, "one", members).running(3).with_user(0, "ann", 1);
    let ask = async |method: Method, path: &str| {
        let request = Request::builder().method(method).uri(path).header("authorization", "Bearer s3cret");
        let response = one.send(request.body(Body::empty()).expect("valid")).await;
        (response.status(), serde_json::from_str::<Value>(&text(response).await).expect("JSON"))
    };
    let (status, user) = ask(Method::GET, "/v1/users/a%2Fb%20%C3%BC").await;
    assert_eq!((status, &user["user_id"], &user["partition"]), (StatusCode::OK, &json!("a/b ü"), &json!(2)), "{user}");
    assert_eq!(ask(Method::GET, "/v1/users/ann").await.0, StatusCode::OK);
    let (status, nobody) = ask(Method::GET, "/v1/users/nobody").await;
    assert_eq!((status, &nobody["type"]), (StatusCode::NOT_FOUND, &json!("/problems/unknown-user")), "{nobody}");
    let (status, deleted) = ask(Method::DELETE, "/v1/users/a%2Fb%20%C3%BC").await;
    assert_eq!((status, deleted), (StatusCode::ACCEPTED, json!({"user_id": "a/b ü", "partition": 2})));
    assert_eq!(*two.written.0.lock().expect("no panic"), [(2, "a/b ü".to_owned())]);
    assert_eq!(*one.written.0.lock().expect("no panic"), []);
    let (_, cohorts) = ask(Method::GET, "/v1/cohorts").await;
    assert_eq!((&cohorts["users"], &cohorts["partial"]), (&json!(2), &json!(false)), "{cohorts}");
    assert_eq!(cohorts["shards"], json!({"here": 2, "running": 2, "counted": 3, "of": 3}));
}

#[tokio::test]
async fn what_nobody_answers_for_is_missing_and_is_said() {
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let silent = format!("http://{}", silent.local_addr().expect("bound"));
    // `three` gives the address of `four`: a mistake in `http.advertised`.
    let four = Instance::among(None, "four", Vec::new()).holding(&[4], 6).with_user(4, "eve", 1);
    let four = served(four.router.clone()).await;
    let members = vec![
        member("one", None, &[0, 1]),
        member("two", Some(silent), &[2]),
        member("three", Some(four.clone()), &[3]),
        member("four", Some(four), &[4]),
        member("five", None, &[5]),
        member("without shards", Some("http://127.0.0.1:1".to_owned()), &[]),
    ];
    let one = Instance::among(None, "one", members).running(6).with_user(0, "ann", 1);
    let (status, cohorts) = one.get("/v1/cohorts").await;
    assert_eq!((status, &cohorts["partial"]), (StatusCode::OK, &json!(true)));
    assert_eq!((&cohorts["missing"], &cohorts["users"]), (&json!([2, 3, 5]), &json!(2)), "{cohorts}");
    let failures = cohorts["failures"].to_string();
    for word in ["two at http", "at the address of three is four", "five does not tell its address"] {
        assert!(failures.contains(word), "{word}: {failures}");
    }
    assert!(!failures.contains("without shards"), "{failures}");
    assert_eq!(one.get("/v1/users/eve").await.0, StatusCode::OK, "who is found is told, whoever else is missing");
    let (status, nobody) = one.get("/v1/users/nobody").await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!((&nobody["type"], &nobody["missing"]), (&json!("/problems/partial"), &json!([2, 3, 5])), "{nobody}");
}
