// Choices above a picture that has been drawn for all of them: a slider for values with an order,
// buttons for others.

function element(name, properties, ...inside) {
  const one = Object.assign(document.createElement(name), properties);
  one.append(...inside);
  return one;
}

/** A slider over the labels of a choice; `choose(i)` is called at every move. */
function slider({ name, labels }, at, choose) {
  const input = element("input", { type: "range", min: 0, max: labels.length - 1, value: at });
  const output = element("b", {}); // for the eye: the slider tells its value itself
  output.setAttribute("aria-hidden", true);
  const say = () => {
    output.textContent = labels[input.value];
    input.setAttribute("aria-valuetext", labels[input.value]);
  };
  input.addEventListener("input", () => {
    say();
    choose(Number(input.value));
  });
  say();
  return element("label", { className: "txl-group" }, name, input, output);
}

function buttons({ name, labels }, at, choose) {
  const all = labels.map((label, i) => {
    const button = element("button", { type: "button", textContent: label });
    button.addEventListener("click", () => {
      press(i);
      choose(i);
    });
    return button;
  });
  const press = (i) => all.forEach((b, n) => b.setAttribute("aria-pressed", n === i));
  press(at);
  const group = element("span", { className: "txl-group", role: "group" }, name, ...all);
  group.setAttribute("aria-label", name);
  return group;
}

function render({ model, el }) {
  const { choices, pages, start } = model.get("data");
  const at = [...start];
  const picture = element("div", {});
  const spoken = element("p", { className: "txl-unseen" });
  spoken.setAttribute("role", "status"); // announced when it changes
  const draw = () => {
    const page = pages[at.join()];
    picture.replaceChildren(drawn(page));
    spoken.textContent = page.caption;
  };
  const controls = choices.map((choice, n) =>
    (choice.ordered ? slider : buttons)(choice, at[n], (i) => {
      at[n] = i;
      draw();
    }),
  );
  el.classList.add("txl-drawing", "txl-play");
  el.addEventListener("keydown", (event) => event.stopPropagation()); // not JupyterLab's keys
  el.replaceChildren(element("div", { className: "txl-bar" }, ...controls), picture, spoken);
  draw();
}

export default { render };
