const main = document.querySelector("main");
const live = () => {
  const events = new EventSource("events");
  events.onmessage = ({ data }) => {
    document.documentElement.dataset.live = "yes";
    // An update would remove a selection that somebody is about to copy.
    if (getSelection().isCollapsed) main.innerHTML = data;
  };
  events.onerror = () => {
    document.documentElement.dataset.live = "no";
    if (events.readyState === EventSource.CLOSED) setTimeout(live, 10000);
  };
};
live();
